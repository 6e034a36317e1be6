#!/bin/bash
# Measures Tidemark beside pgBackRest, pg_basebackup and pg_receivewal, in one run, and prints tables.
#
#   sudo scripts/bench/run.sh [JOB...] [OPTION...]      --help tells which
#
# Needs root: it counts the CPU time of whole process trees by cgroups, and runs servers as "postgres". Installs the peers
# and builds the binaries first; both cost little when done before. An idle machine gives the figures a meaning.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

case " $* " in
    *' --help '* | *' -h '*) ;;
    *)
        scripts/install-test-servers.sh host pg17 garage peers
        cargo build --locked --release -p tidemark-agent -p tidemark-restore
        ;;
esac
PYTHONPATH=scripts/bench PYTHONDONTWRITEBYTECODE=1 exec python3 -m benchmark "$@"
