# shellcheck shell=bash disable=SC2034,SC2154
# MySQL and MariaDB in the story that quickstart.sh tells, which sources this file. $ENGINE says which of the two.

SERVER_USER=nobody
! id postgres >/dev/null 2>&1 || SERVER_USER=postgres

# An installed server, or the one that the tests install.
find_server() {
    local part program
    # shellcheck source=scripts/env.sh
    . scripts/env.sh
    case $ENGINE in
        mysql) part=mysql97 PREFIX=$TIDEMARK_MYSQL97 program=mysqld CLIENT=mysql ;;
        mariadb) part=mariadb118 PREFIX=$TIDEMARK_MARIADB118 program=mariadbd CLIENT=mariadb ;;
    esac
    if [ ! -x "$PREFIX/usr/sbin/$program" ]; then
        say "Installing $ENGINE"
        ./scripts/install-test-servers.sh host "$part"
    fi
    SERVER=$PREFIX/usr/sbin/$program
    CLIENT=$PREFIX/usr/bin/$CLIENT
    SERVER_PROGRAM=(--mysqld "$SERVER")
}

server_version() { "$SERVER" --no-defaults --version | sed 's/.*Ver/version/'; }

SQL() { "${AS[@]}" "$CLIENT" --no-defaults --batch --raw --skip-column-names --user=root --socket="${2:-$DIR/sock/sock}" -e "$1"; }

start_server() {
    cat >"$DIR/my.cnf" <<CONF
[mysqld]
basedir = $PREFIX/usr
lc_messages_dir = $PREFIX/usr/share/mysql
character_sets_dir = $PREFIX/usr/share/mysql/charsets
plugin_dir = $PREFIX/usr/lib/mysql/plugin
datadir = $DIR/data
socket = $DIR/sock/sock
pid_file = $DIR/run/mysqld.pid
log_error = $DIR/run/mysqld.log
skip_networking = ON
server_id = 1
log_bin = $DIR/data/binlog
secure_file_priv = $DIR/run
CONF
    if [ "$ENGINE" = mysql ]; then
        printf '%s\n' "mysqlx = OFF" "gtid_mode = ON" "enforce_gtid_consistency = ON" >>"$DIR/my.cnf"
        "${AS[@]}" "$SERVER" --defaults-file="$DIR/my.cnf" --initialize-insecure --skip-log-bin >"$DIR/run/install.log" 2>&1
    else
        echo "binlog_format = ROW" >>"$DIR/my.cnf"
        "${AS[@]}" "$PREFIX/usr/bin/mariadb-install-db" --defaults-file="$DIR/my.cnf" --basedir="$PREFIX/usr" \
            --auth-root-authentication-method=normal --skip-test-db --skip-log-bin >"$DIR/run/install.log"
    fi
    "${AS[@]}" "$SERVER" --defaults-file="$DIR/my.cnf" >"$DIR/run/stdout.log" 2>&1 &
    local attempt
    for attempt in $(seq 300); do
        ! SQL "SELECT 1" >/dev/null 2>&1 || return 0
        sleep 0.1
    done
    cat "$DIR/run/mysqld.log"
    exit 1
}

server_section() {
    cat <<CONF
engine = "$ENGINE"
url = "mysql://root@localhost/?socket=$DIR/sock/sock"
CONF
    if [ "$ENGINE" = mariadb ]; then
        cat <<CONF

[server.base_backup]
program = "$PREFIX/usr/bin/mariadb-backup"
CONF
    fi
}

create_table() {
    [ "$ENGINE" != mysql ] || SQL "INSTALL PLUGIN clone SONAME 'mysql_clone.so'"
    SQL "CREATE DATABASE shop; CREATE TABLE shop.orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, item VARCHAR(64))"
}

# Two clients, each of which places an order every few milliseconds, but when the load pauses.
start_load() {
    touch "$DIR/run/load"
    orders() {
        while [ -e "$DIR/run/load" ]; do
            [ -e "$DIR/run/pause" ] || echo "INSERT INTO shop.orders (item) VALUES (SHA2(RAND(), 224));"
            sleep 0.005
        done | "${AS[@]}" "$CLIENT" --no-defaults --user=root --socket="$DIR/sock/sock" >/dev/null 2>&1
    }
    { orders & orders & wait; } &
    LOAD_PID=$!
}

# No order is placed around the instant, so that it is plain which ones come before: MariaDB's binlog knows the second of
# a commit only.
remember_instant() {
    touch "$DIR/run/pause"
    sleep 1.5
    TARGET=$(date -u +%Y-%m-%dT%H:%M:%S.%6NZ)
    WANTED_ROWS=$(SQL "$DIGEST")
    sleep 1.5
    rm "$DIR/run/pause"
}

DIGEST="SELECT CONCAT(COUNT(*), ' rows, digest ', BIT_XOR(CRC32(CONCAT(id, item)))) FROM shop.orders"

wanted_rows() { echo "$WANTED_ROWS"; }

count_rows() { SQL "SELECT COUNT(*) FROM shop.orders"; }

restored_rows() { SQL "$DIGEST" "$(read_summary socket)"; }

server_pid() { cat "$DIR/run/mysqld.pid"; }

stop_servers() {
    rm -f "$DIR/run/load"
    local pid
    for pid in "$(cat "$DIR/run/mysqld.pid" 2>/dev/null)" "$(read_summary pid 2>/dev/null)"; do
        [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    done
}
