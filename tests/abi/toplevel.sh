#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: toplevel.sh SOURCE_FOLDER
# The top of the repository holds what the README says and no other folder.
set -eu
cd "$1"
git -c safe.directory="*" rev-parse --git-dir >/dev/null 2>&1 || { echo 'not a git checkout' && exit 77; }

expected='LICENSE
README.md
backends
config
include
meson.build
meson_options.txt
plugin
run
tests'
found=$(git -c safe.directory='*' ls-files | cut -d/ -f1 | grep -v '^\.' | LC_ALL=C sort -u)
if [ "$found" != "$expected" ]; then
    printf 'the top of the repository should hold:\n%s\n\nit holds:\n%s\n' "$expected" "$found"
    exit 1
fi
echo 'the top of the repository is as it should be'
