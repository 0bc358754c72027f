#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: with_torch.sh TEST
# Runs a test with the Python that KVLANE_TORCH_PYTHON names, one that can import torch; skips
# without. To make one: python3 -m venv FOLDER && FOLDER/bin/pip install torch (some GB).
set -eu
python=${KVLANE_TORCH_PYTHON:-}
[ -n "$python" ] || { echo 'KVLANE_TORCH_PYTHON names no Python with torch' && exit 77; }
exec "$python" -W ignore "$1"
