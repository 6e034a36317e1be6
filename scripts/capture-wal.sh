#!/bin/bash
# Captures the golden logs of testdata/wal from real servers: for each major version the log itself (log.zst, whole
# segments one after the other) and what the server's own pg_waldump says of it (waldump.zst).
#
#   scripts/capture-wal.sh [MAJOR...]        default: 15 17 18
#
# Finds the servers by TIDEMARK_PG15_BIN, TIDEMARK_PG17_BIN, TIDEMARK_PG18_BIN. As root it runs them as "postgres".
# crash-MAJOR.zst holds a log whose server was killed in the midst of a long record.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/var/tmp}/capture-wal.XXXXXX")
port=${CAPTURE_PORT:-23100}
trap 'rm -rf "$work"' EXIT
[ "$(id -u)" = 0 ] && chown postgres "$work"

as_user() {
  if [ "$(id -u)" = 0 ]; then
    (cd / && setpriv --reuid=postgres --regid=postgres --init-groups env HOME="$work" TZ=UTC "$@")
  else
    TZ=UTC "$@"
  fi
}

sql() { as_user "$bin/psql" -X -q -h "$work" -p "$port" -U postgres -d "${db:-postgres}" -v ON_ERROR_STOP=1 -At "$@"; }
set_up() { as_user tee -a "$data/postgresql.conf" >/dev/null; }
start() { as_user "$bin/pg_ctl" -D "$data" -l "$work/server.log" -w -s start; }
stop() { as_user "$bin/pg_ctl" -D "$data" -m fast -w -s stop; }
restart() { stop; start; }

init() {
  data=$work/$1
  as_user "$bin/initdb" -D "$data" -U postgres --auth=trust --encoding=UTF8 --locale=C --data-checksums --no-sync \
    --wal-segsize=1 >"$work/initdb.log"
  set_up <<CONF
listen_addresses = ''
unix_socket_directories = '$work'
port = $port
wal_level = replica
wal_keep_size = 1GB
min_wal_size = 2MB
max_wal_size = 1GB
wal_recycle = off
wal_log_hints = on
fsync = off
autovacuum = off
bgwriter_lru_maxpages = 0
max_prepared_transactions = 5
allow_in_place_tablespaces = on
checkpoint_timeout = 1d
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
CONF
  start
}

# Every kind of record that the parser gives a meaning to.
workload() {
  sql <<'SQL' >/dev/null
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT i, repeat('v', 40) FROM generate_series(1, 3000) i;
CREATE INDEX ON t USING gin (to_tsvector('simple', v));
UPDATE t SET v = 'w' WHERE id % 7 = 0;
DELETE FROM t WHERE id > 1500;
VACUUM t;
BEGIN; INSERT INTO t VALUES (10001, 'aborted'); CREATE TABLE never (i int); ROLLBACK;
BEGIN; SAVEPOINT a; INSERT INTO t VALUES (10002, 'a'); SAVEPOINT b; INSERT INTO t VALUES (10003, 'b');
ROLLBACK TO b; RELEASE a; COMMIT;
DO $$ BEGIN FOR i IN 1..100 LOOP BEGIN INSERT INTO t VALUES (20000 + i, 'sub');
  EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$;
SELECT pg_create_restore_point('before the deed');
CREATE TABLE dropped (i int); INSERT INTO dropped VALUES (1); DROP TABLE dropped;
CREATE TABLE emptied AS SELECT generate_series(1, 500) i; TRUNCATE emptied;
BEGIN; INSERT INTO t VALUES (30001, 'p'); CREATE TABLE two_phase (i int); SAVEPOINT s; INSERT INTO t VALUES (30002, 'p');
PREPARE TRANSACTION 'first'; COMMIT PREPARED 'first';
BEGIN; INSERT INTO t VALUES (30003, 'p'); DROP TABLE two_phase; PREPARE TRANSACTION 'second';
ROLLBACK PREPARED 'second';
CREATE UNLOGGED TABLE u (i int);
SELECT nextval('s') FROM (SELECT 1) x WHERE false;
SQL
  # A record over several segments, and one that ends a segment early.
  sql -c "SELECT pg_logical_emit_message(true, 'long', repeat('x', 2500000))" >/dev/null
  sql -c "SELECT pg_switch_wal()" >/dev/null
  sql -c "CREATE TABLESPACE space LOCATION ''"
  sql -c "CREATE TABLE in_space (i int) TABLESPACE space" -c "DROP TABLE in_space" -c "DROP TABLESPACE space"
  sql -c "ALTER SYSTEM SET full_page_writes = off" -c "SELECT pg_reload_conf()" -c "SELECT pg_sleep(0.3)" >/dev/null
  sql -c "CHECKPOINT" -c "UPDATE t SET v = 'x' WHERE id < 50" -c "ALTER SYSTEM RESET full_page_writes"
  sql -c "SELECT pg_reload_conf()" -c "SELECT pg_sleep(0.3)" -c "CHECKPOINT" >/dev/null
  sql -c "SET wal_compression = pglz" -c "UPDATE t SET v = 'compressed' WHERE id < 400"
  sql -c "CHECKPOINT" -c "SET wal_compression = lz4" -c "UPDATE t SET v = 'compressed' WHERE id < 400"
}

# A database that is copied through the log makes two thirds of it: 15 and 18 must do.
databases() {
  sql -c "CREATE DATABASE copied STRATEGY file_copy TEMPLATE template0"
  [ "$major" = 17 ] || sql -c "CREATE DATABASE logged STRATEGY wal_log TEMPLATE template0" -c "DROP DATABASE logged"
  sql -c "DROP DATABASE copied"
}

# Top-level xids and origins, which only wal_level logical writes; a stretch of minimal; a new timeline.
levels() {
  echo "wal_level = logical" | set_up
  restart
  sql <<'SQL' >/dev/null
SELECT pg_replication_origin_create('origin');
SELECT pg_replication_origin_session_setup('origin');
BEGIN; INSERT INTO t VALUES (40001, 'o'); SAVEPOINT s; INSERT INTO t VALUES (40002, 'o'); COMMIT;
BEGIN; INSERT INTO t VALUES (40003, 'o'); PREPARE TRANSACTION 'third'; COMMIT PREPARED 'third';
SQL
  printf 'wal_level = minimal\nmax_wal_senders = 0\n' | set_up
  restart
  sql -c "INSERT INTO t VALUES (50001, 'm')"
  printf 'wal_level = replica\nmax_wal_senders = 4\n' | set_up
  restart
  sql -c "INSERT INTO t VALUES (60001, 'before the fork')"
  stop
  as_user touch "$data/standby.signal"
  start
  as_user "$bin/pg_ctl" -D "$data" -w -s promote
  sql -c "INSERT INTO t VALUES (60002, 'after the fork')" -c "CHECKPOINT"
}

# The segments of the log from $2 on, the newest timeline's file of each, into $1.
join_segments() {
  local first=$2 number file
  (cd "$data/pg_wal" && ls | grep -E '^[0-9A-F]{24}$' | cut -c9- | sort -u) | while read -r number; do
    [[ $number < $first ]] && continue
    file=$(ls "$data/pg_wal" | grep -E "^[0-9A-F]{8}$number\$" | sort | tail -1)
    cat "$data/pg_wal/$file"
  done >"$1"
}

# pg_waldump follows one timeline, so the files are laid out as one.
dump() {
  local flat=$work/flat-$major first=$2 number=0
  as_user mkdir -p "$flat"
  split -b 1M -d -a 4 "$1" "$flat/part."
  local base=$((16#${first:8:8} + 16#${first:0:8} * 4096))
  for part in "$flat"/part.*; do
    mv "$part" "$flat/00000001$(printf '%08X%08X' $(((base + number) / 4096)) $(((base + number) % 4096)))"
    number=$((number + 1))
  done
  chmod -R a+rX "$flat"
  as_user "$bin/pg_waldump" -p "$flat" -s "$(printf '%X/%X' $((base / 4096)) $((base % 4096 * 1048576)))" \
    2>"$work/waldump.err" || true
  rm -rf "$flat"
}

# Ends the segment in use and names the one after it. A switch right behind another switch would do nothing.
first_segment() {
  sql -c "SELECT pg_logical_emit_message(false, '', '')" -c "SELECT substr(pg_walfile_name(pg_switch_wal() + 1048576), 9)" |
    tail -1
}

capture() {
  init "data-$major"
  local first out=$root/testdata/wal/$major
  sql -c "CREATE SEQUENCE s"
  first=$(first_segment)
  workload
  databases
  levels
  stop
  mkdir -p "$out"
  join_segments "$work/log" "$first"
  dump "$work/log" "$first" >"$work/waldump"
  zstd -q -f -19 --long=27 "$work/log" -o "$out/log.zst"
  zstd -q -f -19 "$work/waldump" -o "$out/waldump.zst"
  echo "$major: $(stat -c %s "$work/log") bytes of log from $first, $(wc -l <"$work/waldump") records, $(cat "$work/waldump.err")"
}

# A server whose backend dies while it writes a record of many segments: after recovery the log goes on with an
# XLOG_OVERWRITE_CONTRECORD where the rest of the record would be.
crash() {
  local first third out=$root/testdata/wal/$major try
  init "crash-$major"
  echo "wal_buffers = 64kB" | set_up
  restart
  for try in $(seq 20); do
    first=$(first_segment)
    third=$data/pg_wal/00000001$(printf '%016X' $((16#$first + 2)))
    rm -f "$work/backend"
    sql -c "SELECT pg_backend_pid()" -c "SELECT pg_logical_emit_message(false, 'x', repeat('x', 100000000))" \
      >"$work/backend" 2>/dev/null &
    local client=$!
    until { [ -s "$work/backend" ] && [ -e "$third" ]; } || ! kill -0 "$client" 2>/dev/null; do :; done
    kill -9 "$(head -1 "$work/backend")" || true
    wait "$client" || true
    for _ in $(seq 100); do sql -c "SELECT 1" >/dev/null 2>&1 && break; sleep 0.1; done
    sql -c "CREATE TABLE after_$try (i int)" -c "SELECT pg_switch_wal()" >/dev/null
    join_segments "$work/log" "$first"
    dump "$work/log" "$first" >"$work/waldump"
    if grep -q OVERWRITE_CONTRECORD "$work/waldump"; then break; fi
  done
  stop
  mkdir -p "$out"
  zstd -q -f -19 --long=27 "$work/log" -o "$out/crash.zst"
  zstd -q -f -19 "$work/waldump" -o "$out/crash-waldump.zst"
  echo "$major: $(stat -c %s "$work/log") bytes of crashed log from $first: $(grep -o 'OVERWRITE_CONTRECORD.*' "$work/waldump" || echo "NO overwritten record in $try tries")"
}

for major in "${@:-15 17 18}"; do
  for major in $major; do
    variable=TIDEMARK_PG${major}_BIN
    bin=${!variable:?"set $variable to the directory of PostgreSQL $major's programs"}
    capture
    crash
  done
done
