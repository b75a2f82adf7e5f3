#!/usr/bin/env bash
# Measures Tessera beside the same computation in PyTorch, in turn on the same machine.
#
#   scripts/bench.sh step [OPTIONS]   the whole training step: rows quickstart_step (fp32), quickstart_step_bf16 and,
#                                     where its data is there, flickr8k_small_step. Pairs a second, peak memory, time
#                                     by part; the peer is transformers + peft in eager mode, with --compile also
#                                     under torch.compile. Figures go to bench-results/step.json. OPTIONS go to
#                                     bench/peers/compare_steps.py: --repeats, --steps, --compile, --output FILE
#   scripts/bench.sh vision [OPTIONS] a DINOv2 encoder, plain, with LoRA beside its weights and in them, and a LoRA
#                                     training step: rows forward_b8, adapted_forward_b8, merged_forward_b8,
#                                     lora_step_b8, checkpointed_step_b8 in fp32 and bf16 with peak memory, beside
#                                     transformers and PEFT. Figures go to
#                                     bench-results/vision.json. OPTIONS go to bench/peers/compare_vision.py: --size,
#                                     --batch, --repeats, --times, --precision, --output FILE
#   scripts/bench.sh --help
#
# The peers are installed into .deps/bench-venv, in the versions of bench/peers/requirements.txt (3 GB to download, 5 GB
# on disk). Close other programs first; what else runs shows in the spread.
#
# Environment:
#   TESSERA_BENCH_PYTHON=/path/to/python   use this Python, which has those packages, and install none

set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

readonly bin=build/cpu-release/bin
readonly requirements=bench/peers/requirements.txt
readonly venv=.deps/bench-venv

bench_step() {
  local rows=()
  if [[ -f datasets/shapes/tokenizer.model ]]; then
    rows+=(--row quickstart_step=configs/quickstart.yaml
      --row quickstart_step_bf16=configs/quickstart.yaml,run.precision=bf16)
  else
    die "datasets/shapes is not there: scripts/quickstart.sh makes it"
  fi
  if [[ -f datasets/flickr8k-tokenizer.model && -d datasets/flickr8k ]]; then
    rows+=(--row flickr8k_small_step=configs/flickr8k-small.yaml)
  else
    say "datasets/flickr8k is not there: flickr8k_small_step is left out"
  fi
  env PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 "$python" bench/peers/compare_steps.py --bench "$bin/step_bench" \
    "${rows[@]}" "$@"
}

bench_vision() {
  env PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 "$python" bench/peers/compare_vision.py --bench "$bin/vision_bench" "$@"
}

cd -- "$repository"
case ${1:-} in
  --help | -h | '') print_help "$0"; exit ;;
  step | vision) ;;
  *) die "unknown benchmark '$1'; see --help" ;;
esac
python=${TESSERA_BENCH_PYTHON:-}
if [[ -z $python ]]; then
  python_environment "$venv" "$requirements" "the peers"
  python=$venv/bin/python
fi
scripts/build.sh cpu-release "$1_bench"
"bench_$1" "${@:2}"
