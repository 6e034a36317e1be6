#!/bin/bash
# Runs everything that must hold before a change goes in; CI runs the same (.ci/run).
#
#   scripts/test.sh [STEP...]     steps: install fmt tidy deny clippy build test doctest doc fuzz (default: all)
#
# A failed step does not keep the others from running (but without servers or binaries no tests can run); the table at
# the end says how long each took. A test suite that ran nothing is a failure.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
# shellcheck source=scripts/env.sh
. scripts/env.sh

export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
FUZZ_SECONDS=${FUZZ_SECONDS:-60}

step_install() { scripts/install-test-servers.sh; }
step_fmt() { cargo fmt --all --check; }
step_tidy() { scripts/tidy; }
step_deny() { cargo deny --locked check bans licenses sources; }
step_clippy() { cargo clippy --locked --workspace --all-targets -- -D warnings; }
# The integration tests run both binaries, whichever crate they belong to.
step_build() { cargo build --locked --workspace --bins && cargo nextest run --locked --workspace --no-run; }
step_test() { every_crate_has_tests && cargo nextest run --locked --workspace --no-fail-fast; }
step_doctest() { cargo test --locked --workspace --doc; }
step_doc() { RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --document-private-items; }

# A crate whose tests vanished, by a wrong filter or a lost mod line, would pass in silence.
every_crate_has_tests() {
    local empty
    empty=$(comm -23 \
        <(cargo metadata --locked --no-deps --format-version=1 | jq -r '.packages[].name' | sort) \
        <(cargo nextest list --locked --workspace --message-format=json |
            jq -r '."rust-suites"[] | select(.testcases | length > 0) | ."package-name"' | sort -u))
    [ -z "$empty" ] || { echo "no tests in: ${empty//$'\n'/ }" >&2; return 1; }
}

# Each target gets its share of a minute. RUSTC_BOOTSTRAP lets the stable compiler build for libFuzzer; without a sanitizer,
# which finds nothing in code that may hold no unsafe block.
step_fuzz() {
    local targets target seconds
    mapfile -t targets < <(cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz list)
    [ ${#targets[@]} -gt 0 ] || { echo "no fuzz targets" >&2; return 1; }
    seconds=$((FUZZ_SECONDS / ${#targets[@]} + 1))
    for target in "${targets[@]}"; do
        # A copy of the corpus: new inputs are kept by whoever looks for them, not by every test run.
        local corpus
        corpus=$(mktemp -d) && cp -r "fuzz/corpus/$target/." "$corpus" || return 1
        RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none "$target" "$corpus" -- -max_total_time=$seconds -verbosity=0 || return 1
        rm -rf "$corpus"
    done
}

all_steps=(install fmt tidy deny clippy build test doctest doc fuzz)
report=() failed=()

run_step() {
    local begin=$SECONDS result=ok
    printf '\n==> %s\n' "$1"
    "step_$1" || { result=FAILED; failed+=("$1"); }
    report+=("$(printf '%-8s %-6s %5d s' "$1" "$result" $((SECONDS - begin)))")
    [ $result = ok ]
}

main() {
    local step
    command -v cargo >/dev/null || { echo "test.sh: cargo is missing; install Rust from https://rustup.rs" >&2; exit 1; }
    [ $# -gt 0 ] || set -- "${all_steps[@]}"
    for step in "$@"; do
        [[ " ${all_steps[*]} " == *" $step "* ]] || { echo "unknown step '$step' (${all_steps[*]})" >&2; exit 2; }
    done
    for step in "$@"; do
        run_step "$step" || case $step in install | build) break ;; esac
    done
    printf '\n'
    printf '%s\n' "${report[@]}"
    [ ${#failed[@]} -eq 0 ] || { printf '\nfailed: %s\n' "${failed[*]}"; exit 1; }
}

main "$@"; exit  # one line: an edit of this file during a long run must not be read
