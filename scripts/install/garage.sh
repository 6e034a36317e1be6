#!/bin/bash
# garage.sh ROOT: builds the S3 server Garage from crates.io into ROOT/bin. Minutes of compilation, once.
set -euo pipefail

root=$1
version=2.5.0

if [ -x "$root/bin/garage" ]; then exit 0; fi
command -v cargo >/dev/null || { echo "garage.sh: cargo is missing; install Rust from https://rustup.rs" >&2; exit 1; }

# A test server needs no fast code, so build time is what counts.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=true
# Its own target directory, whatever the caller's: the project's must not fill with Garage's crates.
export CARGO_TARGET_DIR=$root/build
mkdir -p "$root"
nice -n 10 "$(dirname "$0")/retry.sh" 2 \
    cargo install garage --version "$version" --locked --no-default-features --features bundled-libs,lmdb \
    --root "$root"
rm -rf "$CARGO_TARGET_DIR"
echo "garage $version in $root/bin"
