#!/bin/bash
# moto.sh ROOT: installs the S3 simulator moto from PyPI into a virtual environment at ROOT.
set -euo pipefail

root=$1
version=5.2.5
stamp=$root/.complete

if [ -e "$stamp" ]; then exit 0; fi
rm -rf "$root"
python3 -m venv "$root"
"$(dirname "$0")/retry.sh" 3 "$root/bin/pip" install --quiet --disable-pip-version-check "moto[server]==$version"
"$root/bin/moto_server" --version >/dev/null 2>&1 || "$root/bin/moto_server" --help >/dev/null
echo "$version" >"$stamp"
echo "moto $version in $root"
