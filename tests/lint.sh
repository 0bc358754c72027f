#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: lint.sh [FILE...]
# Everything that can be said about the sources without running them. Tools that are not installed
# are named and left out. Exit 1 when there is something to do.
# shellcheck disable=SC2317 # the checks are called by name
set -u
cd "$(dirname "$0")/.." || exit 2

if [ $# -gt 0 ]; then
    files=$*
else
    files=$(git -c safe.directory='*' ls-files -co --exclude-standard 2>/dev/null) ||
        files=$(find . -name 'build*' -prune -o -type f -print | sed 's,^\./,,')
fi
sources=$(echo "$files" | tr ' ' '\n' | grep -E '\.[ch]$')
compiled=$(echo "$sources" | grep -E '\.c$')
scripts=$(echo "$files" | tr ' ' '\n' | grep -E '(\.sh|(^|/)run)$')
bad=0

# Runs a check; whatever it prints is a finding.
check() {
    title=$1
    shift
    found=$("$@" 2>&1)
    if [ -n "$found" ]; then
        printf '%s\n' "$found"
        echo "lint: ^ $title"
        bad=1
    else
        echo "lint: $title: fine"
    fi
}

present() {
    command -v "$1" >/dev/null || { echo "lint: $1 is not installed, left out" && return 1; }
}

in_sources() {
    # shellcheck disable=SC2086
    [ -z "$sources" ] || grep -nE "$1" $sources /dev/null
}

banned() {
    in_sources '\b(strcpy|strcat|sprintf|vsprintf|gets|alloca|strtok|atoi|atol|atof)[[:space:]]*\('
}

# A `//` that does not follow `:` (an address) and is not inside a string.
line_comments() {
    in_sources '^([^"]|"([^"\\]|\\.)*")*//' | grep -vE '^[^:]*:[0-9]+:[[:space:]]*\*' |
        grep -vE '^[^:]*:[0-9]+:.*(/\*|^[[:space:]]*\*).*[a-z]://'
}

blanks() {
    in_sources '([[:blank:]]+$)|	'
}

long_lines() {
    in_sources '^.{101,}'
}

licence() {
    for file in $sources $scripts; do
        head -n 3 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0' || echo "$file"
    done
}

format() {
    for file in $sources; do
        clang-format "$file" | cmp -s - "$file" || echo "$file: clang-format -i would change it"
    done
}

shells() {
    # shellcheck disable=SC2086
    [ -z "$scripts" ] || shellcheck $scripts
}

include_direction() {
    tests/abi/includes.sh . >"$out" || cat "$out"
}

tidy() {
    echo "$compiled" | while read -r file; do
        grep -qF "$file\"" build/compile_commands.json && echo "$file"
    done | xargs -r -P "$(nproc)" -n 4 clang-tidy --quiet -p build 2>/dev/null |
        grep -E '(warning|error):' | sort -u
}

out=$(mktemp)
trap 'rm -f "$out"' EXIT

check 'banned calls' banned
check 'no // comments' line_comments
check 'no tabs, no blanks at the end of a line' blanks
check 'at most 100 columns' long_lines
check 'licence lines' licence
check 'who may include whom' include_direction
if present clang-format; then check 'clang-format' format; fi
if present shellcheck; then check 'shellcheck' shells; fi
if present clang-tidy; then
    if [ -e build/compile_commands.json ]; then
        check 'clang-tidy' tidy
    else
        echo 'lint: clang-tidy needs ./run test first, left out'
    fi
fi
exit $bad
