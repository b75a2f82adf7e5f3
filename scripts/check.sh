#!/usr/bin/env bash
# Checks the sources without building: directions of includes, file length, shell syntax, formatting.
# Reports everything that it finds, then fails.

set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

readonly longest_file=500
readonly clang_format_major=14  # Debian 12's; others format some things differently
failures=0

fail() {
  printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2
  failures=$((failures + 1))
}

cd -- "$repository"
readonly folders=(apps bench cmake scripts src tests)  # some may not be there
files_named() { find "${folders[@]}" -type f -regextype posix-extended -regex ".*/$1" 2>/dev/null | sort; }
mapfile -t code < <(files_named '.*\.(h|cpp|cu)')
mapfile -t shell_scripts < <(echo .ci/run; files_named '.*\.sh')
mapfile -t other < <(echo CMakeLists.txt; files_named '(CMakeLists\.txt|.*\.(cmake|py))')
((${#code[@]} > 0)) || die "found no sources to check"

python3 scripts/check_includes.py || fail "includes or links go against the arrows"

for file in "${code[@]}" "${shell_scripts[@]}" "${other[@]}"; do
  lines=$(wc -l <"$file")
  ((lines <= longest_file)) || fail "$file has $lines lines; $longest_file are the most: split it by what it does"
done

for file in "${shell_scripts[@]}"; do
  bash -n "$file" || fail "$file: shell syntax"
done

if ! command -v clang-format >/dev/null; then
  say "clang-format is not installed: formatting is not checked"
elif ! clang-format --version | grep -q "version $clang_format_major\."; then
  say "clang-format is not version $clang_format_major: formatting is not checked"
else
  for file in "${code[@]}"; do
    clang-format --dry-run -Werror "$file" 2>/dev/null || fail "$file: not formatted; run clang-format -i on it"
  done
fi

((failures == 0)) || die "$failures checks failed"
say "${#code[@]} source files and ${#shell_scripts[@]} shell scripts are in order"
