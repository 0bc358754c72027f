#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: venv.sh FOLDER
# A Python environment with LMCache's remote connector and server, for the interop tests and the
# benchmark: lmcache without what it depends on, then what these two import. torch is Debian's
# (python3-torch, 1.13, CPU): the one of PyPI would bring gigabytes of CUDA along.
set -eu
folder=$1
lmcache=${KVL_LMCACHE:-lmcache==0.3.13}

say() {
    echo "venv: $*" >&2
    exit 1
}

python=/usr/bin/python3
[ -x "$python" ] || say "$python is missing"
"$python" -c 'import torch' 2>/dev/null ||
    say 'torch is missing; as root: apt-get install --no-install-recommends python3-torch'
"$python" -c 'import ensurepip' 2>/dev/null ||
    say 'ensurepip is missing; as root: apt-get install --no-install-recommends python3-venv'

"$python" -m venv --system-site-packages "$folder"
"$folder/bin/pip" --quiet install --no-deps "$lmcache" || say "cannot install $lmcache"
# pip names what else lmcache wants; the remote connector and the server do without it
"$folder/bin/pip" --quiet install aiofile aiohttp msgspec numpy prometheus-client psutil \
    py-cpuinfo pyyaml pyzmq sortedcontainers transformers 2>/dev/null || say 'pip failed'
"$folder/bin/python" "$(dirname "$0")/lmcache_peer.py" check
echo "venv: $folder is ready"
