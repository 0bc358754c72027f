#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: exports.sh SYMBOL FILE [NEEDED_PATTERN]
# The shared object exports exactly SYMBOL; every library it needs matches the pattern.
set -eu
symbol=$1 file=$2 pattern=${3:-}

# Sanitizers add symbols and libraries of their own.
if nm -D "$file" | grep -qE ' (__asan_init|__tsan_init|__ubsan_handle)'; then
    echo "$file is built with a sanitizer"
    exit 77
fi

found=$(nm -D --defined-only "$file")
if [ "$(echo "$found" | wc -l)" != 1 ] || [ "${found##* }" != "$symbol" ]; then
    echo "$file must export '$symbol' and nothing else, it exports:"
    echo "$found"
    exit 1
fi
echo "$file exports $symbol only"

[ -n "$pattern" ] || exit 0
needed=$(readelf -d "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
if echo "$needed" | grep -vE "^($pattern)$"; then
    echo "^ $file may not need that"
    exit 1
fi
echo "$file needs only:" "$needed"
