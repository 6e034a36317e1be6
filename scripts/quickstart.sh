#!/usr/bin/env bash
# The main job in two minutes: a throwaway PostgreSQL under load, an agent with a repository in a directory, a disaster,
# and the way back to an instant in the middle of the load.
#
# Needs: cargo. Installs PostgreSQL when none is found (Debian, as root). Everything else happens in one temporary
# directory, which is removed at the end (KEEP=1 keeps it).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
seconds() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(seconds)" 'BEGIN { printf "%.1f", b - a }'; }

# --- what it takes -------------------------------------------------------------------------------------------------

find_postgres() { { find /usr/lib/postgresql /usr/pgsql-* -maxdepth 2 -name bin -type d 2>/dev/null || true; } | sort -V | tail -n 1; }
PG=${TIDEMARK_QUICKSTART_PG:-$(find_postgres)}
if [ -z "$PG" ]; then
    say "Installing PostgreSQL"
    ./scripts/install-test-servers.sh host
    PG=$(find_postgres)
fi
say "Building tidemark-agent and tidemark-restore"
cargo build --quiet -p tidemark-agent -p tidemark-restore
# A look, not a race: the development build is ready minutes earlier.
BIN=$(cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/debug

DIR=$(mktemp -d "${TMPDIR:-/tmp}/tidemark.XXXXXX")
mkdir "$DIR/bin" "$DIR/sock" "$DIR/run"
cp "$BIN/tidemark-agent" "$BIN/tidemark-restore" "$DIR/bin/"
# PostgreSQL refuses to run as root. A prefix of commands, not a function: so $! is the program itself.
AS=(env HOME="$DIR")
if [ "$(id -u)" = 0 ]; then
    chown -R postgres "$DIR"
    AS=(setpriv --reuid=postgres --regid=postgres --init-groups "${AS[@]}")
fi
PORT=54329
SQL() { "${AS[@]}" "$PG/psql" -XqAt -h "${2:-$DIR/sock}" -p "${3:-$PORT}" -U postgres -v ON_ERROR_STOP=1 -c "$1" postgres; }
json() { python3 -c 'import json,sys; value = json.load(sys.stdin)
for part in sys.argv[1].split("."): value = value[part]
print("" if value is None else value)' "$1"; }

cleanup() {
    trap - EXIT
    for pid in "${LOAD_PID:-}" "${AGENT_PID:-}"; do [ -z "$pid" ] || kill "$pid" 2>/dev/null || true; done
    for file in "$DIR/data/postmaster.pid" "$DIR/restored/postmaster.pid"; do
        [ ! -f "$file" ] || kill -INT "$(head -n 1 "$file")" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    if [ -n "${KEEP:-}" ]; then echo "kept: $DIR"; else sleep 1; rm -rf "$DIR"; fi
}
trap cleanup EXIT
trap 'exit 1' INT TERM

# --- a server, an agent, a load ------------------------------------------------------------------------------------

say "A throwaway PostgreSQL ($("$PG/postgres" --version)) and an agent with a repository in a directory"
"${AS[@]}" "$PG/initdb" -D "$DIR/data" -U postgres --auth=trust --no-sync >"$DIR/run/initdb.log"
cat >>"$DIR/data/postgresql.conf" <<CONF
listen_addresses = ''
port = $PORT
unix_socket_directories = '$DIR/sock'
track_commit_timestamp = on
CONF
"${AS[@]}" "$PG/pg_ctl" -D "$DIR/data" -l "$DIR/run/postgres.log" -w -s start
cat >"$DIR/agent.toml" <<CONF
[repository]
url = "file://$DIR/repository"

[[server]]
name = "shop"
engine = "postgresql"
url = "postgresql://postgres@/postgres?host=$DIR/sock&port=$PORT"
data_directory = "$DIR/data"
max_lag = "1s"
CONF
sed 's/^/    /' "$DIR/agent.toml"
SQL "create table orders (id bigserial primary key, item text, placed timestamptz default clock_timestamp())"
"${AS[@]}" "$DIR/bin/tidemark-agent" run --config "$DIR/agent.toml" >"$DIR/run/agent.log" 2>&1 &
AGENT_PID=$!

backups() { "${AS[@]}" "$DIR/bin/tidemark-restore" list --repository "file://$DIR/repository" --server shop --json 2>/dev/null; }
BEGAN=$(seconds)
until backups | grep -q '"kind": *"full"'; do
    kill -0 "$AGENT_PID" 2>/dev/null || { cat "$DIR/run/agent.log"; exit 1; }
    sleep 0.3
done
echo "base backup complete after $(since "$BEGAN") s"

say "Twenty seconds of orders; halfway, an instant to remember"
echo "insert into orders (item) values (md5(random()::text))" >"$DIR/run/order.sql"
chmod 644 "$DIR/run/order.sql"
"${AS[@]}" "$PG/pgbench" -n -h "$DIR/sock" -p "$PORT" -U postgres -f "$DIR/run/order.sql" -c 4 -R 200 -T 60 postgres \
    >"$DIR/run/pgbench.log" 2>&1 &
LOAD_PID=$!
sleep 10
TARGET=$(SQL "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
sleep 10
WANTED=$(SQL "select count(*) || ' rows, digest ' || coalesce(md5(string_agg(item, ',' order by id)), '')
              from orders where pg_xact_commit_timestamp(xmin) <= '$TARGET'")
LAST=$(SQL "select count(*) || ' rows', max(placed) at time zone 'UTC' from orders")
echo "at $TARGET: $WANTED"
echo "now: ${LAST%%|*}"

# --- the disaster --------------------------------------------------------------------------------------------------

say "Disaster: kill -9, and the data directory is gone"
KILLED=$(seconds)
kill -9 "$(head -n 1 "$DIR/data/postmaster.pid")"
rm -rf "$DIR/data"
kill "$LOAD_PID" 2>/dev/null || true
wait "$LOAD_PID" 2>/dev/null || true
LOAD_PID=
kill "$AGENT_PID"
wait "$AGENT_PID" || true
AGENT_PID=
"${AS[@]}" "$DIR/bin/tidemark-restore" plan --repository "file://$DIR/repository" --server shop --target-latest --json \
    >"$DIR/run/latest.json"

# --- the way back --------------------------------------------------------------------------------------------------

RESTORE=(tidemark-restore restore --repository "file://$DIR/repository" --server shop --target-time "$TARGET" --to "$DIR/restored" --start)
say "The way back: ${RESTORE[*]}"
BEGAN=$(seconds)
"${AS[@]}" "$DIR/bin/${RESTORE[0]}" "${RESTORE[@]:1}" --pg-bin "$PG" --json >"$DIR/run/restore.json"
RTO=$(since "$BEGAN")
read_summary() { json "$1" <"$DIR/run/restore.json"; }
phase() { printf "%.2f" "$(read_summary "phases.$1")"; }
FOUND=$(SQL "select count(*) || ' rows, digest ' || coalesce(md5(string_agg(item, ',' order by id)), '') from orders" \
    "$(read_summary socket)" "$(read_summary port)")
RPO=$(awk -v killed="$KILLED" -v stored="$(date +%s.%N -d "$(json last_commit.time <"$DIR/run/latest.json")")" \
    'BEGIN { lost = killed - stored; printf "%.1f", (lost > 0 ? lost : 0) }')

say "Result"
printf '%-44s %s\n' \
    "at the instant" "$WANTED" \
    "restored" "$FOUND" \
    "last commit stored before the disaster (RPO)" "$RPO s" \
    "disaster to a running server (RTO)" "$RTO s" \
    "  plan" "$(phase plan) s" \
    "  fetch" "$(phase fetch) s" \
    "  replay" "$(phase replay) s" \
    "  checks" "$(phase checks) s"
[ "$WANTED" = "$FOUND" ] || { echo "THE ROWS DIFFER" >&2; exit 7; }
echo
echo "The rows are those of the instant, to the last one."
