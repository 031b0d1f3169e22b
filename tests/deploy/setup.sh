#!/usr/bin/env bash
# Install what checks the files that deploy us, once: setup.sh DIRECTORY
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
exec 9>lock
flock 9
stamp=$(sha256sum <"$here/requirements.txt")
[ "$(cat stamp 2>/dev/null)" = "$stamp" ] && exit 0
python3 -m venv venv
venv/bin/pip install --quiet -r "$here/requirements.txt"
echo "$stamp" >stamp
