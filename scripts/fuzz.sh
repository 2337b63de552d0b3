#!/usr/bin/env bash
# Runs every fuzz target for a time, 30s unless the first argument says otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
git grep -lE --untracked '^func Fuzz' -- '*_test.go' | while read -r file; do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' "$file"); do
		echo "== $(dirname "$file") $target"
		go test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "${1:-30s}"
	done
done
