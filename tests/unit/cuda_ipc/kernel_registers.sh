#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: kernel_registers.sh NVCC KERNEL.cu
# Whether the kernels keep all they need in registers, few enough that four blocks of them share a
# multiprocessor: spills would go through the memory they are to copy.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bad=0
for arch in sm_80 sm_90; do
    "$1" -cubin -O3 -arch=$arch -Xptxas -v "$2" -o "$work/cubin" 2>"$work/text" ||
        { cat "$work/text" && exit 1; }
    awk -v arch=$arch '
        /Compiling entry function/ { split($0, part, "\047"); name = part[2]; kernels++ }
        /bytes spill stores/ && !/ 0 bytes spill stores, 0 bytes spill loads/ {
            print arch ": " name " spills: " $0; bad = 1
        }
        /Used [0-9]+ registers/ {
            match($0, /Used [0-9]+/); used = substr($0, RSTART + 5, RLENGTH - 5) + 0
            if (used > 64) { print arch ": " name " uses " used " registers"; bad = 1 }
            if (used > most) most = used
        }
        END {
            print arch ": " kernels " kernels, at most " most " registers"
            exit bad || kernels != 12
        }' "$work/text" || bad=1
done
exit $bad
