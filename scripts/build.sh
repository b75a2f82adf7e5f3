#!/usr/bin/env bash
# Installs what is missing, configures and builds.
#
#   scripts/build.sh [PRESET [TARGET…]]     PRESET: cpu-release (default), cpu-edit (file by file with precompiled
#                                           headers: for the edit loop), cpu-files (file by file), cpu-debug, asan,
#                                           cuda-release (docs: README, "What works today");
#                                           no target: everything
#   scripts/build.sh --help
#
# The result is in build/PRESET, programs in build/PRESET/bin.
#
# Environment: TESSERA_JOBS (compile jobs; default: one a core, limited by memory), and that of scripts/setup.sh

set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  print_help "$0"
  exit
fi
preset=${1:-cpu-release}
targets=("${@:2}")
[[ $preset != -* ]] || die "unknown option '$preset'; see --help"
grep -qF "\"name\": \"$preset\"" "$repository/CMakePresets.json" ||
  die "there is no preset '$preset' in CMakePresets.json"

"$repository/scripts/setup.sh"
libtorch=$("$repository/scripts/setup.sh" --print-libtorch)

cd -- "$repository"
configure_log=$repository/.deps/configure-$preset.log
if ! cmake --preset "$preset" -D TESSERA_LIBTORCH="$libtorch" >"$configure_log" 2>&1; then
  cat "$configure_log" >&2
  die "CMake could not configure preset '$preset'"
fi
jobs=$(compile_jobs)
say "building ${targets[*]:-everything} in build/$preset with $jobs jobs"
cmake --build "build/$preset" --parallel "$jobs" ${targets[@]+--target "${targets[@]}"}
