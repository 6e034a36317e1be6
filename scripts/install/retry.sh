#!/bin/bash
# retry.sh TIMES COMMAND...: runs COMMAND until it succeeds, TIMES at most, waiting longer each time.
set -u
times=$1
shift
for ((try = 1; ; try++)); do
    "$@" && exit 0
    status=$?
    [ "$try" -lt "$times" ] || exit $status
    echo "retry.sh: '$1' failed with $status, trying again in $((try * 5)) s" >&2
    sleep $((try * 5))
done
