#!/bin/sh
# venv.sh DIRECTORY LOCK [OPTION…]: makes or updates a virtual environment until it is what the lock says.
# The options are for `pip install`.
# The stamp in it keeps the lock's checksum, so a second run only compares two numbers.
set -eu
venv=$1 lock=$2 python=${PYTHON:-python3}
shift 2
stamp=$venv/.lock-checksum
checksum=$(cksum <"$lock")

fail() {
    echo "error: $*" >&2
    exit 1
}

# an environment whose interpreter is gone (an upgraded system, a moved checkout) answers nothing
alive() { "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if alive; then
    [ "$(cat "$stamp" 2>/dev/null)" != "$checksum" ] || exit 0
else
    command -v "$python" >/dev/null || fail "'$python' not found; Kompakt needs Python 3.11 or newer (make … PYTHON=/path/to/python3)"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Kompakt needs Python 3.11 or newer, '$python' is $("$python" -V 2>&1 | cut -d' ' -f2) (make … PYTHON=python3.12)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "'$python' has no venv module; on Debian and Ubuntu: apt-get install python3-venv"
    "$python" -m venv --clear "$venv"
fi

echo "Installing $lock into $venv (a few minutes the first time) …"
rm -f "$stamp"
[ -t 1 ] && quiet= || quiet=-qq  # pip's progress bars are for people
"$venv/bin/python" -m pip install $quiet --disable-pip-version-check "$@" -r "$lock"
echo "$checksum" >"$stamp"
