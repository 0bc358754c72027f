#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: in_venv.sh PYTHON TEST
# Runs a test with the Python of the environment; skips when there is none. KVL_LMCACHE_PYTHON names
# another one.
set -eu
python=${KVL_LMCACHE_PYTHON:-$1}
[ -x "$python" ] || { echo "no $python: make it with ./run venv" && exit 77; }
exec "$python" "$2"
