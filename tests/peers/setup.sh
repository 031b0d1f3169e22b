#!/usr/bin/env bash
# Install the real MCP programs that the tests drive, once: setup.sh DIRECTORY
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
exec 9>lock
flock 9
stamp=$(cat "$here/package.json" "$here/requirements.txt" | sha256sum)
[ "$(cat stamp 2>/dev/null)" = "$stamp" ] && exit 0
cp "$here/package.json" .
npm install --no-audit --no-fund --no-package-lock --loglevel=error
python3 -m venv venv
venv/bin/pip install --quiet -r "$here/requirements.txt"
echo "$stamp" > stamp
