#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: headers.sh LANGUAGE INCLUDE_FOLDER HEADER
# Compiles one public header alone (twice, for its guard) with every compiler of the language that
# is installed, with nothing defined that the header might lean on.
set -eu
language=$1 include=$2 header=$3

case $language in
    c) compilers='gcc clang' flags='-std=c17 -Wstrict-prototypes' probe='stddef.h' ;;
    c++) compilers='g++ clang++' flags='-std=c++17' probe='cstddef' ;;
esac
flags="$flags -pedantic -Wall -Wextra -Werror -fsyntax-only"

tried=0
for compiler in $compilers; do
    # A clang++ without the headers of a C++ library is no C++ compiler.
    if ! echo "#include <$probe>" | "$compiler" -x "$language" -fsyntax-only - 2>/dev/null; then
        continue
    fi
    # shellcheck disable=SC2086
    printf '#include <kvlane/%s>\n#include <kvlane/%s>\nint use_it;\n' "$header" "$header" |
        "$compiler" $flags -I "$include" -x "$language" -
    tried=$((tried + 1))
    echo "kvlane/$header: fine with $compiler $flags"
done
[ $tried -gt 0 ] || { echo "no compiler for $language here" && exit 77; }
