#!/usr/bin/env bash
# Measures Tessera beside the same computation in PyTorch, in turn on the same machine.
#
#   scripts/bench.sh step [OPTIONS]   the whole training step: rows quickstart_step (fp32), quickstart_step_bf16,
#                                     stage1_queue_step (configs/stage1.yaml with a full queue of 4,096 pairs, a
#                                     batch of 8 and 3 layers of the encoder) and, where its data is there,
#                                     flickr8k_small_step. Pairs a second, peak memory, time by part; the peer is
#                                     transformers + peft in eager mode, with --compile also under torch.compile.
#                                     Figures go to bench-results/step.json. OPTIONS go to
#                                     bench/peers/compare_steps.py: --only ROW, --repeats, --steps, --compile,
#                                     --output FILE
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

# configs/stage1.yaml over the drawn scenes, in the sizes that two cores bear: 257 tokens an image and all widths stay.
# Every queued pair counts, and half of the negatives are drawn from all candidates alike, most of them queued.
stage1_queue_row() {
  local settings=(
    'data.train=["datasets/shapes/train-{000000..000007}.tar"]'
    language.tokenizer=datasets/shapes/tokenizer.model language.vocab_size=400
    vision.weights=random vision.architecture.num_hidden_layers=3
    data.batch_size=8 memory.episode=8
    losses.itc.queue.max_shift=0 losses.itc.queue.probe_pairs=2 losses.itm.uniform_share=0.5)
  local IFS=,
  echo "stage1_queue_step=configs/stage1.yaml,${settings[*]}"
}

bench_step() {
  local rows=()
  if [[ -f datasets/shapes/tokenizer.model ]]; then
    rows+=(--row quickstart_step=configs/quickstart.yaml
      --row quickstart_step_bf16=configs/quickstart.yaml,run.precision=bf16
      --row "$(stage1_queue_row)")
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
