#!/bin/sh
# debian.sh LIST: installs the Debian packages in LIST that are missing, or says how to.
set -eu
list=$(sed 's/#.*//' "$1")

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=
for package in $list; do
    installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

command="apt-get install --yes --no-install-recommends$missing"
if ! command -v apt-get >/dev/null; then
    echo "error: the tests need these Debian packages, or what your system has in their place:$missing" >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    sudo=
elif command -v sudo >/dev/null; then
    sudo=sudo
else
    echo "error: the tests need Debian packages, and installing them needs root. As root, run:" >&2
    echo "  apt-get update && $command" >&2
    exit 1
fi
echo "The tests need Debian packages; installing them as root:$missing"
$sudo apt-get update --quiet=2
$sudo env DEBIAN_FRONTEND=noninteractive $command
