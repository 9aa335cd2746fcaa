#!/usr/bin/env bash
# build_free_threaded.sh FOLDER: builds a CPython without the GIL into a folder, from Debian's source package.
#
# There is no binary package. Debian's newer suites are read through the machine's own mirror, with an apt configuration
# of our own that leaves the system's alone. A mirror may list sources that it does not hold. So the newest available
# version of 3.14 is taken, or else of 3.13.
set -euo pipefail

prefix=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
    sed -n 's/^Debian \(.*debian\/\)$/\1/p' | head -n 1)
if [ -z "$mirror" ]; then
    echo "this machine has no mirror of Debian" >&2
    exit 1
fi

mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/source"
: >"$work/status"
for suite in sid forky trixie; do
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
done >"$work/sources.list"
cat >"$work/apt.conf" <<CONF
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "-";
APT::Sandbox::User "root";
CONF
export APT_CONFIG=$work/apt.conf

cd "$work"
apt-get update -q >log 2>&1 || true
for name in python3.14 python3.13; do
    for version in $(apt-cache showsrc "$name" 2>>log | sed -n 's/^Version: //p' | sort -rVu); do
        apt-get source -q --download-only "$name=$version" >>log 2>&1 && break 2
    done
done
source=$(compgen -G '*.orig.tar.xz' | sort -V | tail -n 1 || true)
if [ -z "$source" ]; then
    tail -n 5 log >&2
    echo "the mirror holds the source of no Python 3.14 or 3.13" >&2
    exit 1
fi
tar -xf "$source" -C source --strip-components 1
cd source
if ! {
    ./configure -q --disable-gil --disable-test-modules --without-ensurepip --prefix="$prefix" &&
        nice make -s -j "$(nproc)" &&
        make -s install
} >../log 2>&1; then
    tail -n 5 ../log >&2
    exit 1
fi
