#!/usr/bin/env bash
# Writes the golden cases anew (docs/golden-cases.md): runs every scripts/golden/make_*.py.
#
#   scripts/golden/generate.sh            into tests/golden
#   scripts/golden/generate.sh FOLDER     into FOLDER, to compare or to run with TESSERA_GOLDEN_DIR=FOLDER
#   scripts/golden/generate.sh --help
#
# The references (PyTorch, transformers, peft) are installed into .deps/golden-venv in the repository, in the versions
# of scripts/golden/requirements.txt: 3 GB to download, 5 GB on disk. Nothing else in Tessera needs them.
#
# Environment:
#   TESSERA_GOLDEN_PYTHON=/path/to/python   use this Python, which has those packages, and install none

set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../common.sh"

readonly scripts=$repository/scripts/golden
readonly requirements=$scripts/requirements.txt
readonly venv=$repository/.deps/golden-venv

main() {
  case ${1:-} in
    --help | -h) print_help "$0"; return ;;
    -*) die "unknown option '$1'; see --help" ;;
  esac
  (($# <= 1)) || die "expected at most one folder, found: $*"
  local folder=${1:-$repository/tests/golden}
  local python=${TESSERA_GOLDEN_PYTHON:-}
  if [[ -z $python ]]; then
    python_environment "$venv" "$requirements" "the references"
    python=$venv/bin/python
  fi
  local generator
  for generator in "$scripts"/make_*.py; do
    say "${generator#"$repository"/}"
    # No bytecode beside the sources, and nothing fetched: the references compute on made-up weights.
    env PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 "$python" "$generator" "$folder"
  done
}

main "$@"
