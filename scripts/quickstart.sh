#!/usr/bin/env bash
# The main job in two minutes: a throwaway server under load, an agent with a repository in a directory, a disaster, and
# the way back to an instant in the middle of the load.
#
#   scripts/quickstart.sh [postgresql|mysql|mariadb]      (default: postgresql)
#
# Needs: cargo. Installs a server when none is found (Debian, as root). Everything else happens in one temporary
# directory, which is removed at the end (KEEP=1 keeps it).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ENGINE=${1:-postgresql}
case $ENGINE in
    postgresql) STORY=postgresql ;;
    mysql | mariadb) STORY=mysql ;;
    *) echo "usage: scripts/quickstart.sh [postgresql|mysql|mariadb]" >&2; exit 2 ;;
esac

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
seconds() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(seconds)" 'BEGIN { printf "%.1f", b - a }'; }

# How this engine is installed, started, loaded, asked and killed.
# shellcheck source=scripts/quickstart/postgresql.sh
. "scripts/quickstart/$STORY.sh"

# --- what it takes -------------------------------------------------------------------------------------------------

find_server
say "Building tidemark-agent and tidemark-restore"
cargo build --quiet -p tidemark-agent -p tidemark-restore
# A look, not a race: the development build is ready minutes earlier.
BIN=$(cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/debug

DIR=$(mktemp -d "${TMPDIR:-/tmp}/tidemark.XXXXXX")
mkdir "$DIR/bin" "$DIR/sock" "$DIR/run"
cp "$BIN/tidemark-agent" "$BIN/tidemark-restore" "$DIR/bin/"
# Database servers refuse to run as root. A prefix of commands, not a function: so $! is the program itself.
AS=(env HOME="$DIR")
if [ "$(id -u)" = 0 ]; then
    chown -R "$SERVER_USER" "$DIR"
    AS=(setpriv --reuid="$SERVER_USER" --regid="$SERVER_USER" --init-groups "${AS[@]}")
fi
json() { python3 -c 'import json,sys; value = json.load(sys.stdin)
for part in sys.argv[1].split("."): value = value[part]
print("" if value is None else value)' "$1"; }
read_summary() { json "$1" <"$DIR/run/restore.json"; }

cleanup() {
    trap - EXIT
    for pid in "${LOAD_PID:-}" "${AGENT_PID:-}"; do [ -z "$pid" ] || kill "$pid" 2>/dev/null || true; done
    stop_servers
    wait 2>/dev/null || true
    if [ -n "${KEEP:-}" ]; then echo "kept: $DIR"; else sleep 1; rm -rf "$DIR"; fi
}
trap cleanup EXIT
trap 'exit 1' INT TERM

# --- a server, an agent, a load ------------------------------------------------------------------------------------

say "A throwaway server ($(server_version)) and an agent with a repository in a directory"
start_server
cat >"$DIR/agent.toml" <<CONF
[repository]
url = "file://$DIR/repository"

[[server]]
name = "shop"
max_lag = "1s"
$(server_section)
CONF
sed 's/^/    /' "$DIR/agent.toml"
create_table
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
start_load
sleep 10
remember_instant
sleep 10
echo "at $TARGET: $(wanted_rows)"
WANTED=$(wanted_rows)
echo "now: $(count_rows) rows"

# --- the disaster --------------------------------------------------------------------------------------------------

say "Disaster: kill -9, and the data directory is gone"
KILLED=$(seconds)
kill -9 "$(server_pid)"
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
"${AS[@]}" "$DIR/bin/${RESTORE[0]}" "${RESTORE[@]:1}" "${SERVER_PROGRAM[@]}" --json >"$DIR/run/restore.json"
RTO=$(since "$BEGAN")
phase() { printf "%.2f" "$(read_summary "phases.$1")"; }
FOUND=$(restored_rows)
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
