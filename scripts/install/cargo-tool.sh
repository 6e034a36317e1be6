#!/bin/bash
# cargo-tool.sh ROOT SUBCOMMAND VERSION: makes sure that `cargo SUBCOMMAND` exists: the user's own, whatever its version,
# else one built from crates.io into ROOT/bin.
set -euo pipefail

root=$1 tool=cargo-$2 version=$3

if command -v "$tool" >/dev/null || [ -x "$root/bin/$tool" ]; then exit 0; fi
command -v cargo >/dev/null || { echo "cargo-tool.sh: cargo is missing; install Rust from https://rustup.rs" >&2; exit 1; }

# Run a few times a day on one machine: not worth the minutes that full optimisation takes.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    CARGO_PROFILE_RELEASE_DEBUG=false
export CARGO_TARGET_DIR=$root/build-$tool
nice -n 10 "$(dirname "$0")/retry.sh" 2 cargo install "$tool" --version "$version" --locked --root "$root"
rm -rf "$CARGO_TARGET_DIR"
echo "$tool $version in $root/bin"
