#!/bin/bash
# Installs what the tests need on a Debian 12 machine (amd64, as root): PostgreSQL 15, 17 and 18, MySQL 9.7, MariaDB
# 10.11 and 11.8, the S3 servers Garage and moto, build tools and cargo subcommands. Host packages come by apt; all else goes under $TIDEMARK_CACHE
# (see env.sh).
#
#   scripts/install-test-servers.sh [PART...]     parts: host pg17 pg18 mysql97 mariadb1011 mariadb118 garage moto nextest deny
#                                                 fuzz (default: all)
#                                                 peers: what scripts/bench compares with; only when asked for
#
# A part that is already there costs nothing: a second run takes a second and asks no mirror anything.
# A part whose TIDEMARK_* variable names an installation of your own is left out.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/env.sh
. "$here/env.sh"

say() { printf 'install-test-servers: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

# Compilers for the Rust crates and for Garage, what the scripts call, and what the servers load at run time.
host_packages=(build-essential pkg-config curl ca-certificates git jq zstd patchelf xz-utils python3 python3-venv
    tzdata libfaketime)
all_parts=(pg17 pg18 mysql97 mariadb1011 mariadb118 garage moto nextest deny fuzz)
optional_parts=(peers)
debian_pg15=/usr/lib/postgresql/15/bin

install_host() {
    local packages=("${host_packages[@]}") missing=() package
    [ "$TIDEMARK_PG15_BIN" != "$debian_pg15" ] || packages+=(postgresql-15 postgresql-client-15)
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || die "run as root once to install: ${missing[*]}"
    say "host packages: ${missing[*]}"
    forbid_default_cluster
    "$here/install/retry.sh" 3 apt-get -q -o Acquire::Retries=3 update
    DEBIAN_FRONTEND=noninteractive "$here/install/retry.sh" 3 \
        apt-get -q -y -o Acquire::Retries=3 install --no-install-recommends "${missing[@]}"
}

# Debian's package would create and start a cluster of its own; the tests make theirs.
forbid_default_cluster() {
    local conf=/etc/postgresql-common/createcluster.conf
    if [ ! -e "$conf" ]; then
        mkdir -p "$(dirname "$conf")"
        echo 'create_main_cluster = false' >"$conf"
    fi
}

# Whether PATH is where this script would install, and not an installation of the caller's own.
ours() { [[ $1 == "$TIDEMARK_CACHE"/* ]]; }

install_pg17() { ! ours "$TIDEMARK_PG17_BIN" || "$here/install/prefix-apt.sh" "$TIDEMARK_CACHE/postgresql-17" trixie postgresql-17; }
install_pg18() { ! ours "$TIDEMARK_PG18_BIN" || "$here/install/prefix-apt.sh" "$TIDEMARK_CACHE/postgresql-18" sid postgresql-18; }
# Only what runs in the foreground: the packages with service files and databases of their own are left out.
install_mysql97() {
    ! ours "$TIDEMARK_MYSQL97" || "$here/install/prefix-apt.sh" "$TIDEMARK_CACHE/mysql-9.7" sid \
        mysql-server-core mysql-client-core mysql-client
}
install_mariadb1011() { ! ours "$TIDEMARK_MARIADB1011" || install_mariadb mariadb-10.11 bookworm; }
install_mariadb118() { ! ours "$TIDEMARK_MARIADB118" || install_mariadb mariadb-11.8 trixie; }
install_mariadb() {
    "$here/install/prefix-apt.sh" "$TIDEMARK_CACHE/$1" "$2" \
        mariadb-server-core mariadb-client-core mariadb-client mariadb-backup
}
install_garage() { ! ours "$TIDEMARK_GARAGE" || "$here/install/garage.sh" "$TIDEMARK_CACHE/garage"; }
install_peers() { ! ours "$TIDEMARK_PGBACKREST" || "$here/install/prefix-apt.sh" "$TIDEMARK_CACHE/peers" sid pgbackrest; }
install_nextest() { "$here/install/cargo-tool.sh" "$TIDEMARK_CACHE/cargo-tools" nextest 0.9.143; }
install_deny() { "$here/install/cargo-tool.sh" "$TIDEMARK_CACHE/cargo-tools" deny 0.20.2; }
install_fuzz() { "$here/install/cargo-tool.sh" "$TIDEMARK_CACHE/cargo-tools" fuzz 0.13.2; }
install_moto() { ! ours "$TIDEMARK_MOTO" || "$here/install/moto.sh" "$TIDEMARK_CACHE/moto"; }

# Runs the named parts side by side (Garage compiles for minutes, the others wait for mirrors); each writes a log.
install_side_by_side() {
    local part failed=() pids=() logs=$TIDEMARK_CACHE/log
    mkdir -p "$logs"
    for part in "$@"; do
        "install_$part" >"$logs/$part.log" 2>&1 &
        pids+=($!)
    done
    for part in "$@"; do
        if wait "${pids[0]}"; then
            [ ! -s "$logs/$part.log" ] || say "$part: $(tail -n 1 "$logs/$part.log")"
        else
            failed+=("$part")
            tail -n 40 "$logs/$part.log" >&2
        fi
        pids=("${pids[@]:1}")
    done
    [ ${#failed[@]} -eq 0 ] || die "failed: ${failed[*]} (logs in $logs)"
}

main() {
    local part parts=() host=0
    [ $# -gt 0 ] || set -- host "${all_parts[@]}"
    for part in "$@"; do
        case $part in
            host) host=1 ;;
            *) [[ " ${all_parts[*]} ${optional_parts[*]} " == *" $part "* ]] ||
                   die "unknown part '$part' (parts: host ${all_parts[*]} ${optional_parts[*]})"
               parts+=("$part") ;;
        esac
    done
    [ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || die "only Debian on amd64 is supported"

    mkdir -p "$TIDEMARK_CACHE"
    chmod 755 "$TIDEMARK_CACHE"
    exec 9>"$TIDEMARK_CACHE/lock"
    flock 9
    [ $host = 0 ] || install_host
    [ ${#parts[@]} -eq 0 ] || install_side_by_side "${parts[@]}"
    say "ready; 'source scripts/env.sh' tells where everything is"
}

main "$@"; exit  # one line: an edit of this file during a long run must not be read
