#!/bin/bash
# Captures the golden logs of testdata/binlog from real servers: for each version some binlog files (NAME.zst) and what
# the vendor's own mysqlbinlog says of each (NAME.dump.zst).
#
#   scripts/capture-binlog.sh [VERSION...]        default: mysql97 mariadb1011 mariadb118
#
# Finds the servers by TIDEMARK_MYSQL97, TIDEMARK_MARIADB1011, TIDEMARK_MARIADB118. As root it runs them as "postgres".
#
#   main         every kind of transaction            anonymous    gtid_mode=OFF (MySQL)
#   next         the file after it, closed by a stop  nochecksum   binlog_checksum=NONE
#   compressed   payloads, or compressed events       crash        of a server that was killed, its tail cut
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/env.sh
. "$root/scripts/env.sh"
work=$(mktemp -d "${TMPDIR:-/var/tmp}/capture-binlog.XXXXXX")
server=
exec 3>&2  # an exit within a redirected function still reports here
finish() {
  local status=$?
  [ $status = 0 ] || tail -n 20 "$dir"/{init.log,log.err,stdout} >&3 2>&3 || true
  [ -z "$server" ] || kill -9 "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
[ "$(id -u)" = 0 ] && chown postgres "$work"

as_user() {
  if [ "$(id -u)" = 0 ]; then
    (cd / && exec setpriv --reuid=postgres --regid=postgres --init-groups env HOME="$work" TZ=UTC "$@")
  else
    TZ=UTC "$@"
  fi
}

is_mysql() { [[ $version == mysql* ]]; }
sql() { as_user "$prefix/usr/bin/$client" --no-defaults --socket="$dir/sock" -uroot --batch --skip-column-names "$@"; }

# One session for all statements of its input; errors end the script.
session() { sql "${db:-d}" "$@"; }

start() {
  as_user env TZ=UTC "$prefix/usr/sbin/$daemon" --defaults-file="$dir/my.cnf" "$@" >>"$dir/stdout" 2>&1 &
  for _ in $(seq 200); do sql -e 'SELECT 1' >/dev/null 2>&1 && break; sleep 0.1; done
  sql -e 'SELECT 1' >/dev/null || { tail -n 30 "$dir/log.err" >&2; exit 1; }
  server=$(cat "$dir/pid")
}

stop() {
  kill -TERM "$server"
  while [ -d "/proc/$server" ]; do sleep 0.1; done
  server=
}

init() {
  dir=$work/$version
  as_user mkdir -p "$dir/binlog" "$dir/tmp"
  as_user tee "$dir/my.cnf" >/dev/null <<CONF
[mysqld]
basedir=$prefix/usr
lc_messages_dir=$prefix/usr/share/mysql
character_sets_dir=$prefix/usr/share/mysql/charsets
plugin_dir=$prefix/usr/lib/mysql/plugin
datadir=$dir/data
tmpdir=$dir/tmp
secure_file_priv=$dir/tmp
socket=$dir/sock
pid_file=$dir/pid
log_error=$dir/log.err
skip_networking=ON
server_id=77
log_bin=$dir/binlog/bin
binlog_row_metadata=FULL
innodb_buffer_pool_size=64M
innodb_flush_log_at_trx_commit=0
sync_binlog=0
CONF
  if is_mysql; then
    as_user tee -a "$dir/my.cnf" >/dev/null <<CONF
mysqlx=OFF
gtid_mode=ON
enforce_gtid_consistency=ON
binlog_rows_query_log_events=ON
innodb_redo_log_capacity=16M
CONF
    as_user "$prefix/usr/sbin/mysqld" --defaults-file="$dir/my.cnf" --initialize-insecure >"$dir/init.log" 2>&1
  else
    as_user tee -a "$dir/my.cnf" >/dev/null <<CONF
binlog_format=ROW
binlog_annotate_row_events=ON
log_slave_updates=ON
CONF
    as_user "$prefix/usr/bin/mariadb-install-db" --defaults-file="$dir/my.cnf" --basedir="$prefix/usr" \
      --auth-root-authentication-method=normal --skip-test-db >"$dir/init.log" 2>&1
  fi
}

rotate() { sql -e 'FLUSH BINARY LOGS'; }
current() { is_mysql && sql -e 'SHOW BINARY LOG STATUS' | cut -f1 || sql -e 'SHOW MASTER STATUS' | cut -f1; }

# keep FILE NAME: stores a binlog file and its dump.
keep() {
  local out=$root/testdata/binlog/$version
  mkdir -p "$out"
  TZ=UTC "$prefix/usr/bin/$dumper" --no-defaults --local-load="$work" --base64-output=DECODE-ROWS "$1" >"$work/dump" 2>"$work/err" || true
  zstd -q -f -19 "$1" -o "$out/$2.zst"
  zstd -q -f -19 "$work/dump" -o "$out/$2.dump.zst"
  echo "$version: $2: $(stat -c %s "$1") bytes, stored $(stat -c %s "$out/$2.zst") + $(stat -c %s "$out/$2.dump.zst")" \
    "$(head -c 200 "$work/err")"
}

# What is alike in both.
workload() {
  db=mysql session <<'SQL'
CREATE DATABASE d;
SQL
  printf '1\tloaded\n2\tloaded\n' | as_user tee "$dir/tmp/loaded" >/dev/null
  session <<SQL
CREATE TABLE auto (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20)) ENGINE=MyISAM;
SET SESSION binlog_format = STATEMENT;
INSERT INTO auto (v) VALUES ('one'), ('two');
LOAD DATA INFILE '$dir/tmp/loaded' REPLACE INTO TABLE auto;
SQL
  session <<'SQL'
CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200), j LONGTEXT) ENGINE=InnoDB;
CREATE TABLE keyless (a INT, b VARCHAR(100)) ENGINE=InnoDB;
CREATE TABLE m (id INT PRIMARY KEY, v VARCHAR(100)) ENGINE=MyISAM;
INSERT INTO t VALUES (1, 'one', '{}'), (2, 'two', '{}');
BEGIN; INSERT INTO t VALUES (3, 'three', '{}'); UPDATE t SET v = 'zwei' WHERE id = 2; DELETE FROM t WHERE id = 1; COMMIT;
BEGIN; INSERT INTO t VALUES (4, 'four', '{}'); SAVEPOINT s; INSERT INTO t VALUES (5, 'five', '{}'); ROLLBACK TO s; COMMIT;
BEGIN; INSERT INTO t VALUES (6, 'never', '{}'); ROLLBACK;
INSERT INTO keyless VALUES (1, 'x'), (1, 'x'), (2, 'y');
UPDATE keyless SET b = 'z' WHERE a = 1;
INSERT INTO m VALUES (1, 'myisam'), (2, 'myisam');
UPDATE m SET v = 'isam';
CREATE TABLE copied SELECT * FROM t;
ALTER TABLE t ADD COLUMN extra INT DEFAULT 5;
TRUNCATE TABLE copied;
CREATE TEMPORARY TABLE tmp (i INT); INSERT INTO tmp VALUES (1); DROP TEMPORARY TABLE tmp;
DROP TABLE copied;
CREATE USER u@localhost IDENTIFIED BY 'secret'; GRANT SELECT ON d.* TO u@localhost;
CREATE VIEW seen AS SELECT * FROM t;
CREATE PROCEDURE p() INSERT INTO t VALUES (20, 'procedure', '{}', 1);
CALL p();
XA START 'x1'; INSERT INTO t VALUES (30, 'xa', '{}', 1); XA END 'x1'; XA PREPARE 'x1'; XA COMMIT 'x1';
XA START 'x2', 'branch', 7; INSERT INTO t VALUES (31, 'xa', '{}', 1); XA END 'x2', 'branch', 7;
XA PREPARE 'x2', 'branch', 7; XA ROLLBACK 'x2', 'branch', 7;
XA START 'x3'; INSERT INTO t VALUES (32, 'xa', '{}', 1); XA END 'x3'; XA COMMIT 'x3' ONE PHASE;
SET SESSION binlog_format = STATEMENT;
SET @v = 'a user variable';
INSERT INTO t VALUES (40, @v, '{}', 1);
INSERT INTO m VALUES (40, RAND());
BEGIN; UPDATE t SET v = CONCAT(v, '!') WHERE id = 40; UPDATE t SET extra = 7 WHERE id = 40; COMMIT;
SET SESSION binlog_format = ROW;
FLUSH TABLES;
ANALYZE TABLE t;
SET TIMESTAMP = 1000000000; INSERT INTO t VALUES (50, 'in the year 2001', '{}', 1); SET TIMESTAMP = DEFAULT;
SQL
  # A transaction of many events, and one row larger than what a decoder keeps.
  { echo "BEGIN;"; for i in $(seq 60); do
      echo "INSERT INTO t SELECT $((i * 1000)) + a.n * 10 + b.n, REPEAT('v', 150), REPEAT('{}', 100), 1 FROM digits a, digits b;"
    done; echo "INSERT INTO t VALUES (100001, 'big', REPEAT('abc', 700000), 1); COMMIT;"; } >"$work/big.sql"
  session -e "CREATE TABLE digits (n INT); INSERT INTO digits VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)"
  session <"$work/big.sql"
}

# Transactions over both engines, which GTIDs of MySQL forbid.
mixed() {
  session <<'SQL'
BEGIN; INSERT INTO t (id, v) VALUES (900, 'mixed'); INSERT INTO m VALUES (903, 'mixed'); ROLLBACK;
BEGIN; INSERT INTO m VALUES (904, 'mixed'); INSERT INTO t (id, v) VALUES (901, 'mixed'); COMMIT;
XA START 'x4'; INSERT INTO m VALUES (932, 'xa'); XA END 'x4'; XA PREPARE 'x4'; XA ROLLBACK 'x4';
CREATE TABLE n ENGINE=MyISAM SELECT * FROM t LIMIT 2; CREATE TABLE o (i INT) ENGINE=InnoDB; DROP TABLE n, o;
SQL
}

mysql_only() {
  local uuid=aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee
  session <<SQL
SET SESSION gtid_next = 'AUTOMATIC:tagged'; INSERT INTO t VALUES (200, 'tagged', '{}', 1); INSERT INTO t VALUES (201, 'tagged', '{}', 1);
SET SESSION gtid_next = '$uuid:17'; INSERT INTO t VALUES (202, 'foreign', '{}', 1);
SET SESSION gtid_next = '$uuid:a_tag_of_thirty_two_characters_x:9223372036854775806'; INSERT INTO t VALUES (203, 'tagged', '{}', 1);
SET SESSION gtid_next = '$uuid:19'; BEGIN; COMMIT;
SET SESSION original_commit_timestamp = 1600000000123456, gtid_next = '$uuid:tag:1'; INSERT INTO t VALUES (204, 'from afar', '{}', 1);
SET SESSION original_commit_timestamp = 1600000000123457, gtid_next = '$uuid:21'; INSERT INTO t VALUES (205, 'from afar', '{}', 1);
SET SESSION gtid_next = AUTOMATIC, original_commit_timestamp = 36028797018963968;
SET SESSION binlog_row_value_options = PARTIAL_JSON;
CREATE TABLE js (id INT PRIMARY KEY, j JSON); INSERT INTO js VALUES (1, '{"a": 1, "long": "$(printf 'x%.0s' $(seq 200))"}');
UPDATE js SET j = JSON_SET(j, '$.a', 2);
SQL
}

mariadb_only() {
  session <<'SQL'
SET SESSION gtid_domain_id = 5; INSERT INTO t VALUES (200, 'domain', '{}', 1);
SET SESSION server_id = 78; INSERT INTO t VALUES (201, 'server', '{}', 1);
SET SESSION gtid_seq_no = 1000000; INSERT INTO t VALUES (202, 'sequence', '{}', 1);
SET SESSION gtid_domain_id = 0, server_id = 77;
SET SESSION binlog_alter_two_phase = ON; ALTER TABLE t ADD COLUMN later INT, ALGORITHM=COPY; ALTER TABLE t DROP COLUMN later;
CREATE SEQUENCE sq; SELECT NEXTVAL(sq);
CREATE OR REPLACE TABLE replaced (i INT); DROP TABLE replaced;
CREATE TABLE a (i INT PRIMARY KEY) ENGINE=Aria; INSERT INTO a VALUES (1), (2); DELETE FROM a;
SET SESSION binlog_row_image = MINIMAL; UPDATE t SET v = 'minimal' WHERE id = 3;
SQL
}

compressed() {
  if is_mysql; then
    session <<'SQL'
SET SESSION binlog_transaction_compression = ON;
INSERT INTO t SELECT 300000 + n, REPEAT('compress', 20), REPEAT('{}', 300), 1 FROM digits;
BEGIN; UPDATE t SET v = REPEAT('other', 20) WHERE id < 3000; DELETE FROM t WHERE id BETWEEN 300000 AND 300005; COMMIT;
INSERT INTO m VALUES (300, 'not transactional');
XA START 'xc'; INSERT INTO t VALUES (300100, 'xa', REPEAT('{}', 300), 1); XA END 'xc'; XA PREPARE 'xc'; XA COMMIT 'xc';
XA START 'xd'; INSERT INTO t VALUES (300101, 'xa', REPEAT('{}', 300), 1); XA END 'xd'; XA COMMIT 'xd' ONE PHASE;
CREATE TABLE compressed_ddl SELECT * FROM t LIMIT 5;
SET SESSION gtid_next = 'AUTOMATIC:squeezed'; INSERT INTO t VALUES (300200, 'tagged', REPEAT('{}', 300), 1);
SET SESSION binlog_transaction_compression = OFF, gtid_next = AUTOMATIC; INSERT INTO t VALUES (300300, 'plain', '{}', 1);
SQL
  else
    sql -e 'SET GLOBAL log_bin_compress = ON, log_bin_compress_min_len = 10'
    session <<'SQL'
INSERT INTO t SELECT 300000 + n, REPEAT('compress', 20), REPEAT('{}', 300), 1 FROM digits;
BEGIN; UPDATE t SET v = REPEAT('other', 20) WHERE id < 3000; DELETE FROM t WHERE id BETWEEN 300000 AND 300005; COMMIT;
CREATE TABLE compressed_ddl (a_long_name_for_a_column INT, another_long_name_for_a_column INT);
XA START 'a longer name of a transaction'; INSERT INTO t VALUES (300100, 'xa', '{}', 1); XA END 'a longer name of a transaction';
XA PREPARE 'a longer name of a transaction'; XA COMMIT 'a longer name of a transaction';
SET SESSION binlog_format = STATEMENT; UPDATE t SET v = 'a statement that is long enough' WHERE id = 3;
SQL
    sql -e 'SET GLOBAL log_bin_compress = OFF'
  fi
}

capture() {
  local file
  init
  start
  rotate
  file=$(current)
  workload
  if is_mysql; then mysql_only; else mariadb_only; mixed; fi
  rotate
  keep "$dir/binlog/$file" main
  file=$(current)
  session -e "INSERT INTO t (id, v) VALUES (400, 'next')"
  stop
  keep "$dir/binlog/$file" next
  start
  rotate
  file=$(current)
  compressed
  rotate
  keep "$dir/binlog/$file" compressed
  sql -e 'SET GLOBAL binlog_checksum = NONE'
  file=$(current)
  session -e "INSERT INTO t (id, v) VALUES (500, 'no checksum'); ALTER TABLE t ADD COLUMN again INT; UPDATE t SET v = 'y' LIMIT 50"
  sql -e 'SET GLOBAL binlog_checksum = CRC32'
  keep "$dir/binlog/$file" nochecksum
  is_mysql && anonymous
  crash
}

anonymous() {
  stop
  sed -i 's/^gtid_mode=ON/gtid_mode=OFF/; s/^enforce_gtid_consistency=ON/enforce_gtid_consistency=OFF/' "$dir/my.cnf"
  start
  local file
  file=$(current)
  session -e "INSERT INTO t (id, v) VALUES (600, 'anonymous'); CREATE TABLE anonymous (i INT); UPDATE t SET v = 'w' LIMIT 5"
  mixed
  rotate
  keep "$dir/binlog/$file" anonymous
}

# Killed while the file is open; the tail of its last transaction is cut off, as a crash of the machine would do.
crash() {
  local file
  rotate
  file=$(current)
  session -e "INSERT INTO t (id, v) VALUES (700, 'whole'); BEGIN; INSERT INTO t (id, v) VALUES (701, 'torn'), (702, 'torn'); UPDATE t SET v = 'z' LIMIT 40; COMMIT"
  kill -9 "$server"
  while [ -d "/proc/$server" ]; do sleep 0.1; done
  server=
  truncate -s -100 "$dir/binlog/$file"
  keep "$dir/binlog/$file" crash
}

for version in "${@:-mysql97 mariadb1011 mariadb118}"; do
  for version in $version; do
    variable=TIDEMARK_${version^^}
    prefix=${!variable}
    if is_mysql; then client=mysql daemon=mysqld dumper=mysqlbinlog; else client=mariadb daemon=mariadbd dumper=mariadb-binlog; fi
    capture
  done
done
