#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: includes.sh SOURCE_FOLDER
# Who may include whom:
#   include/kvlane/    other contracts
#   plugin/            contracts, plugin/ but not plugin/cli/, inih, xxhash
#   plugin/cli/        contracts, plugin/cli/: it reaches the core through dlopen like any engine
#   backends/common/   contracts, backends/common/, the header-only packer of msgpack-c
#   backends/<x>/      contracts, backends/common/, its own folder, its own library
set -eu
cd "$1"
bad=0

report() {
    echo "$1:$2: $3"
    bad=1
}

# Prints "FILE LINE HEADER" for each include in $1 that matches; $2 is '"' or '<'.
includes() {
    find "$1" -name '*.[ch]' -exec grep -nE "^[[:space:]]*#[[:space:]]*include[[:space:]]*$2" {} + |
        sed -E 's/^([^:]*):([0-9]+):[^"<]*["<]([^">]*)[">].*/\1 \2 \3/'
}

# The local includes of files below $1 must exist in one of the folders $2...; deeper ones are $skip.
local_from() {
    below=$1
    shift
    includes "$below" '"' >"$list"
    while read -r file line header; do
        case $file in ${skip:-//}/*) continue ;; esac
        for folder in "$@"; do
            [ ! -e "$folder/$header" ] || continue 2
        done
        report "$file" "$line" "\"$header\" is not in: $*"
    done <"$list"
}

# System includes of files below $1 must not match the pattern $2.
system_without() {
    includes "$1" '<' >"$list"
    while read -r file line header; do
        case $file in ${skip:-//}/*) continue ;; esac
        if echo "$header" | grep -qE "$2"; then
            report "$file" "$line" "<$header> does not belong here"
        fi
    done <"$list"
}

list=$(mktemp)
trap 'rm -f "$list"' EXIT

# Every third-party header that this project may meet; a folder names the ones it may not.
ini='^ini\.h$' xxhash='^xxhash\.h$' heavy='^(zmq|msgpack|cuda|microhttpd|sodium|openssl)'

local_from include /nowhere
system_without include "$ini|$xxhash|$heavy|^stdatomic"

skip=plugin/cli
local_from plugin plugin
system_without plugin "$heavy"
skip=
if [ -d plugin/cli ]; then
    local_from plugin/cli plugin/cli
    system_without plugin/cli "$ini|$heavy"
fi

for folder in backends/*/; do
    [ -d "$folder" ] || continue
    folder=${folder%/}
    case $folder in
        backends/common)
            local_from "$folder" "$folder"
            system_without "$folder" "$ini|^msgpack\.h$|^(zmq|cuda|microhttpd|sodium|openssl)"
            ;;
        *)
            local_from "$folder" "$folder" backends/common
            system_without "$folder" "$ini"
            ;;
    esac
done

# Nobody climbs out of a folder, and the core names no backend.
if grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*["<][^">]*\.\./' include plugin backends; then
    echo '^ no "../" in an include'
    bad=1
fi
for folder in backends/*/; do
    [ -d "$folder" ] || continue
    word=$(basename "$folder")
    [ "$word" != common ] || continue
    if grep -rnwE "$word" --include='*.[ch]' plugin | grep -v '^plugin/cli/'; then
        echo "^ the core must not name the backend '$word'"
        bad=1
    fi
done
[ $bad = 0 ] && echo 'every include points the right way'
exit $bad
