# shellcheck shell=bash disable=SC2034,SC2154
# PostgreSQL in the story that quickstart.sh tells, which sources this file.

SERVER_USER=postgres
PORT=54329

newest_postgres() { { find /usr/lib/postgresql /usr/pgsql-* -maxdepth 2 -name bin -type d 2>/dev/null || true; } | sort -V | tail -n 1; }

find_server() {
    PG=${TIDEMARK_QUICKSTART_PG:-$(newest_postgres)}
    if [ -z "$PG" ]; then
        say "Installing PostgreSQL"
        ./scripts/install-test-servers.sh host
        PG=$(newest_postgres)
    fi
    SERVER_PROGRAM=(--pg-bin "$PG")
}

server_version() { "$PG/postgres" --version; }

SQL() { "${AS[@]}" "$PG/psql" -XqAt -h "${2:-$DIR/sock}" -p "${3:-$PORT}" -U postgres -v ON_ERROR_STOP=1 -c "$1" postgres; }

start_server() {
    "${AS[@]}" "$PG/initdb" -D "$DIR/data" -U postgres --auth=trust --no-sync >"$DIR/run/initdb.log"
    cat >>"$DIR/data/postgresql.conf" <<CONF
listen_addresses = ''
port = $PORT
unix_socket_directories = '$DIR/sock'
track_commit_timestamp = on
CONF
    "${AS[@]}" "$PG/pg_ctl" -D "$DIR/data" -l "$DIR/run/postgres.log" -w -s start
}

server_section() {
    cat <<CONF
engine = "postgresql"
url = "postgresql://postgres@/postgres?host=$DIR/sock&port=$PORT"
data_directory = "$DIR/data"
CONF
}

create_table() {
    SQL "create table orders (id bigserial primary key, item text, placed timestamptz default clock_timestamp())"
}

start_load() {
    echo "insert into orders (item) values (md5(random()::text))" >"$DIR/run/order.sql"
    chmod 644 "$DIR/run/order.sql"
    "${AS[@]}" "$PG/pgbench" -n -h "$DIR/sock" -p "$PORT" -U postgres -f "$DIR/run/order.sql" -c 4 -R 200 -T 60 postgres \
        >"$DIR/run/pgbench.log" 2>&1 &
    LOAD_PID=$!
}

remember_instant() {
    TARGET=$(SQL "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
}

# The server itself remembers when each row was committed.
wanted_rows() {
    SQL "select count(*) || ' rows, digest ' || coalesce(md5(string_agg(item, ',' order by id)), '')
         from orders where pg_xact_commit_timestamp(xmin) <= '$TARGET'"
}

count_rows() { SQL "select count(*) from orders"; }

restored_rows() {
    SQL "select count(*) || ' rows, digest ' || coalesce(md5(string_agg(item, ',' order by id)), '') from orders" \
        "$(read_summary socket)" "$(read_summary port)"
}

server_pid() { head -n 1 "$DIR/data/postmaster.pid"; }

stop_servers() {
    for file in "$DIR/data/postmaster.pid" "$DIR/restored/postmaster.pid"; do
        [ ! -f "$file" ] || kill -INT "$(head -n 1 "$file")" 2>/dev/null || true
    done
}
