#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: readme_example.sh SOURCE_FOLDER LIBKVLANE COMPILER...
# Compiles the C example of README.md as it stands there, and runs it.
set -eu
source=$1 library=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# shellcheck disable=SC2016
sed -n '/^```c$/,/^```$/{/^```/d;p}' "$source/README.md" >"$work/example.c"
[ -s "$work/example.c" ] || { echo 'README.md has no C example' && exit 1; }
lines=$(wc -l <"$work/example.c")
[ "$lines" -le 25 ] || { echo "the example has grown to $lines lines" && exit 1; }
"$@" -std=c17 -pedantic -Wall -Wextra -Werror -I "$source/include" \
    "$work/example.c" -o "$work/example" -ldl
# A library built with a sanitizer cannot be loaded into a plain program.
if nm -D "$library" | grep -qE ' (__asan_init|__tsan_init|__ubsan_handle)'; then
    echo 'compiled; not run with a sanitizer'
    exit 0
fi
"$work/example" "$library"
