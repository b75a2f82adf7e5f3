#!/usr/bin/env bash
# Installs what is missing, builds everything, checks the sources, and runs every test that this machine can run.
#
#   scripts/test.sh [--preset PRESET] [-L LABEL] [-R REGEX]
#
#   --preset PRESET   cpu-release (default), cpu-debug, asan (address and undefined-behaviour sanitizers)
#   -L LABEL          only tests whose label matches: unit, golden, integration
#   -R REGEX          only test suites whose name matches
#
# The exit code is 0 only if the checks and all chosen tests pass; choosing no test at all is a failure.
#
# Environment: TESSERA_GOLDEN_DIR (a folder of golden cases to run beside those of tests/golden), TESSERA_JOBS,
# and that of scripts/setup.sh

set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

preset=cpu-release
selection=()
while (($# > 0)); do
  case $1 in
    --help | -h) print_help "$0"; exit ;;
    --preset | -L | -R) (($# >= 2)) || die "$1 needs a value" ;;&
    --preset) preset=$2; shift 2 ;;
    -L | -R) selection+=("$1" "$2"); shift 2 ;;
    *) die "unknown option '$1'; see --help" ;;
  esac
done

if [[ -n ${TESSERA_GOLDEN_DIR:-} ]]; then
  # Tests run in the build folder: a relative path would mean another place there.
  [[ -d $TESSERA_GOLDEN_DIR ]] || die "TESSERA_GOLDEN_DIR: expected a folder, found none at '$TESSERA_GOLDEN_DIR'"
  TESSERA_GOLDEN_DIR=$(cd -- "$TESSERA_GOLDEN_DIR" && pwd)
  export TESSERA_GOLDEN_DIR
fi

# LibTorch's own library is not instrumented: what it allocates at start looks like leaks, and containers that cross
# its border look damaged. The sanitizers still see all of Tessera's own code.
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0:detect_container_overflow=0}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}
# Several tests run side by side: two threads each still exercise what runs in parallel, and waiting threads sleep.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

"$repository/scripts/setup.sh"
"$repository/scripts/check.sh"
"$repository/scripts/build.sh" "$preset"

cd -- "$repository/build/$preset"
status=0
ctest --output-on-failure --no-tests=error --parallel "$(usable_processors)" "${selection[@]}" || status=$?
# CTest knows suites; which of their cases were skipped, and why, stands in what they printed.
awk '/: Skipped$/ {getline reason} /^\[  SKIPPED \] .* ms\)$/ {print "skipped: " $4 ": " reason}' \
  Testing/Temporary/LastTest.log 2>/dev/null || true
exit "$status"
