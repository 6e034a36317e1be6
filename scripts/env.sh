# shellcheck shell=bash
# Where the test servers are. Source this file; it only sets variables and prints nothing.
#
# Every variable can be set beforehand to use an installation of your own: the installer then leaves that
# part out. `crates/testkit/src/install.rs` knows the same defaults, so `cargo test` works without this file.

# Root's home directory is closed to the user that the servers run as, hence the other place.
if [ "$(id -u)" = 0 ]; then
    TIDEMARK_CACHE=${TIDEMARK_CACHE:-/var/cache/tidemark}
else
    TIDEMARK_CACHE=${TIDEMARK_CACHE:-$HOME/.cache/tidemark}
fi
export TIDEMARK_CACHE

export TIDEMARK_PG15_BIN="${TIDEMARK_PG15_BIN:-/usr/lib/postgresql/15/bin}"
export TIDEMARK_PG17_BIN="${TIDEMARK_PG17_BIN:-$TIDEMARK_CACHE/postgresql-17/usr/lib/postgresql/17/bin}"
export TIDEMARK_PG18_BIN="${TIDEMARK_PG18_BIN:-$TIDEMARK_CACHE/postgresql-18/usr/lib/postgresql/18/bin}"
# The prefix of each: usr/sbin holds the server, usr/bin its programs.
export TIDEMARK_MYSQL97="${TIDEMARK_MYSQL97:-$TIDEMARK_CACHE/mysql-9.7}"
export TIDEMARK_MARIADB1011="${TIDEMARK_MARIADB1011:-$TIDEMARK_CACHE/mariadb-10.11}"
export TIDEMARK_MARIADB118="${TIDEMARK_MARIADB118:-$TIDEMARK_CACHE/mariadb-11.8}"
export TIDEMARK_GARAGE="${TIDEMARK_GARAGE:-$TIDEMARK_CACHE/garage/bin/garage}"
export TIDEMARK_MOTO="${TIDEMARK_MOTO:-$TIDEMARK_CACHE/moto/bin/moto_server}"
export TIDEMARK_PGBACKREST="${TIDEMARK_PGBACKREST:-$TIDEMARK_CACHE/peers/usr/bin/pgbackrest}"
export TIDEMARK_FAKETIME="${TIDEMARK_FAKETIME:-/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1}"

# Cargo subcommands that the host lacked; its own come first.
case :$PATH: in
    *":$TIDEMARK_CACHE/cargo-tools/bin:"*) ;;
    *) export PATH="$PATH:$TIDEMARK_CACHE/cargo-tools/bin" ;;
esac
