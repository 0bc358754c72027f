#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: sanitize.sh PROGRAM [ARGS]
# Runs a test of this folder, with the processes it starts, under compute-sanitizer; skips without
# the tool. A read or write out of bounds on the device fails the test.
set -eu
tool=${COMPUTE_SANITIZER:-$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)}
[ -x "$tool" ] || { echo "skipped: there is no compute-sanitizer" && exit 77; }
# The tool reports a program that finds no device as failed.
[ -e /dev/nvidiactl ] || [ -e /dev/dxg ] || { echo "skipped: there is no GPU" && exit 77; }
exec "$tool" --tool memcheck --target-processes all --error-exitcode 1 --leak-check no "$@"
