#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: toolkit.sh FOLDER
# What nvcc needs to compile the kernels, from NVIDIA's own packages on PyPI, as a normal user.
#
# 13.0 is the oldest toolkit that comes this way whole, and so the one whose output most drivers
# take: a driver loads what toolkits of its own major version made, of any minor version, and what
# older ones made.
set -eu
folder=$1
version=13.0.88

say() {
    echo "toolkit: $*" >&2
    exit 1
}

[ "$(uname -m)" = x86_64 ] || [ "$(uname -m)" = aarch64 ] || say "nothing for $(uname -m)"
python=$(command -v python3) || say 'python3 is missing'
"$python" -c 'import ensurepip' 2>/dev/null ||
    say 'ensurepip is missing; as root: apt-get install --no-install-recommends python3-venv'
[ -x "$(command -v g++)" ] || say 'g++ is missing; as root: apt-get install g++'

rm -rf "$folder.new" "$folder.pip"
trap 'rm -rf "$folder.new" "$folder.pip"' EXIT
"$python" -m venv "$folder.pip"
"$folder.pip/bin/pip" --quiet --disable-pip-version-check --retries 1 --timeout 10 install \
    --no-deps --target "$folder.new" \
    nvidia-cuda-nvcc==$version nvidia-nvvm==$version nvidia-cuda-crt==$version \
    nvidia-cuda-runtime==$version || say 'pip failed'
chmod +x "$folder.new"/nvidia/cu13/bin/* "$folder.new"/nvidia/cu13/nvvm/bin/* 2>/dev/null || true
"$folder.new/nvidia/cu13/bin/nvcc" --version >/dev/null || say 'nvcc does not run'
rm -rf "$folder"
mv "$folder.new" "$folder"
