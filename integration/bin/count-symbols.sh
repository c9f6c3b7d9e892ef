#!/bin/sh
# count-symbols.sh: reads {"file_path": ...} on standard input, prints {"file_path": ...,
# "symbol_count": N}, N being the characters (not bytes) of the file. Paths that JSON would have to
# escape are refused.
set -u
LC_ALL=C.UTF-8
export LC_ALL
file=$(sed -n 's/^.*"file_path"[[:space:]]*:[[:space:]]*"\([^"\\]\{1,\}\)".*$/\1/p')
if [ -z "$file" ]; then
    echo 'count-symbols: expected {"file_path": "..."} without escapes on standard input' >&2
    exit 2
fi
count=$(wc -m <"$file") || exit 1
printf '{"file_path": "%s", "symbol_count": %d}\n' "$file" "$count"
