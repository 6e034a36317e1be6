#!/bin/bash
# prefix-apt.sh PREFIX SUITE PACKAGE...
#
# Unpacks packages of another Debian suite under PREFIX, beside the host's own and unknown to its dpkg, so that a
# server newer than the host's suite runs on it. The suite's libc comes along; executables are patched to use
# it (interpreter and rpath), so they run by their ordinary path, while programs that they start keep the host's.
#
# Whatever version the suite holds today is taken. PREFIX is part of the patched files: it cannot be moved.
# It either ends complete, with a stamp, or does not exist. Needs patchelf, xz and zstd; not root.
set -euo pipefail

prefix=$1 suite=$2
shift 2
packages=("$@")
here=$(cd "$(dirname "$0")" && pwd)
stamp=$prefix/.complete
state=$prefix.apt

[ ! -e "$stamp" ] || exit 0

finish() {
    status=$?
    rm -rf "$state"
    [ -e "$stamp" ] || rm -rf "$prefix"
    exit $status
}
trap finish EXIT
rm -rf "$prefix" "$state"
mkdir -p "$state"/{lists/partial,cache/archives/partial,etc,debs} "$prefix"

# The mirror that the host itself uses for its suite.
mirror() {
    { cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null || true; } |
        awk '/^URIs:.*\/debian\/?$/ { print $2; exit }
             /^deb / { for (i = 2; i <= NF; i++) if ($i ~ /\/debian\/?$/) { print $i; exit } }'
}

# apt with a state of its own: an empty dpkg status, so that it resolves the full closure, and one source.
apt=(apt-get -q
    -o Dir::Etc::sourcelist="$state/etc/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
    -o Dir::State="$state" -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/status"
    -o Dir::Cache="$state/cache" -o APT::Install-Recommends=0 -o APT::Sandbox::User=root
    -o Acquire::Retries=3 -o Acquire::Languages=none
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false)

fetch() {
    local url
    url=$(mirror)
    : >"$state/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${url:?no Debian mirror in the sources of apt} $suite main" \
        >"$state/etc/sources.list"
    "$here/retry.sh" 3 "${apt[@]}" update
    "${apt[@]}" -s -y install "${packages[@]}" | awk '/^Inst /{ print $2 }' | sort -u | grep -E "$(kept)" |
        grep -Ev '^(libllvm|libperl|libpython)|^lib.*-perl$' >"$state/wanted"
    cd "$state/debs"
    # shellcheck disable=SC2046  # one word per package
    "$here/retry.sh" 3 "${apt[@]}" download $(cat "$state/wanted")
    cd /
}

# Of the closure only the asked packages, their clients and libraries are used: shells, perl and the like are the host's.
kept() {
    local name pattern='^(lib.*|zlib1g|openssl-provider-legacy|postgresql-client-[0-9]+'
    for name in "${packages[@]}"; do pattern+="|$name"; done
    echo "$pattern)\$"
}

unpack() {
    local name deb
    mkdir -p "$prefix"/usr/{bin,sbin,lib,lib64}
    for name in bin sbin lib lib64; do ln -s "usr/$name" "$prefix/$name"; done
    for deb in "$state"/debs/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x --no-same-owner --keep-directory-symlink -C "$prefix"
    done
    rm -rf "$prefix"/usr/share/{doc,man,locale,lintian,bug}
    # Without libllvm the JIT provider would fail the first expensive query; without the provider none is tried.
    rm -rf "$prefix"/usr/lib/postgresql/*/lib/{llvmjit*,bitcode}
}

patch_executables() {
    local file loader=$prefix/usr/lib64/ld-linux-x86-64.so.2 libraries=$prefix/usr/lib/x86_64-linux-gnu patched=0
    [ -x "$loader" ] || loader=$libraries/ld-linux-x86-64.so.2
    # Libraries that MySQL brings along.
    [ ! -d "$prefix/usr/lib/mysql/private" ] || libraries+=:$prefix/usr/lib/mysql/private
    while IFS= read -r -d '' file; do
        [ "$(patchelf --print-interpreter "$file" 2>/dev/null)" = /lib64/ld-linux-x86-64.so.2 ] || continue
        patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$file"
        patched=$((patched + 1))
    done < <(find "$prefix"/usr/{bin,sbin,lib/postgresql} -type f -perm -u+x -print0 2>/dev/null)
    [ "$patched" -gt 0 ] || { echo "prefix-apt.sh: nothing to patch in $prefix" >&2; exit 1; }
}

fetch
unpack
patch_executables
(cd "$state/debs" && ls) >"$stamp.new"
mv "$stamp.new" "$stamp"
echo "$(grep -E "^(${packages[0]})_" "$stamp"), $(wc -l <"$stamp") packages, $(du -sm "$prefix" | cut -f1) MiB"
