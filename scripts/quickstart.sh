#!/usr/bin/env bash
# From a fresh clone to a trained and evaluated model: installs what is missing, builds, draws the "shapes" picture and
# caption set, trains both phases on it, evaluates each, and leaves figures and pictures in runs/quickstart.
#
#   scripts/quickstart.sh
#
# Needs no GPU and no data. What is there already (installation, build, picture set) is used again; an earlier
# runs/quickstart is moved to runs/quickstart.previous.
#
# Environment: that of scripts/setup.sh and scripts/build.sh

set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

# The picture set: scenes that are trained on, and others that are kept out for evaluation.
readonly shapes_options=(--train-scenes 8000 --held-out-scenes 512 --seed 7)
readonly vocabulary_size=400
# Candidates of each query that matching orders anew in retrieval: a fused pass each.
readonly rerank_top_k=8
# Held-out pictures that are captioned and explained: the first five.
readonly shown_pictures='shapes-val-00000[0-4].png'

readonly run=runs/quickstart
readonly log=logs/quickstart/training.log
readonly shapes=datasets/shapes
readonly tokenizer=$shapes/tokenizer.model
readonly bin=build/cpu-release/bin

stage=start
seconds=()  # "stage=seconds" of every finished stage
on_exit() {
  local status=$?
  if ((status != 0)); then say "stopped in stage '$stage' with exit code $status" >&2; fi
}
trap on_exit EXIT

# Runs a command as a stage: says so, measures it, stops the script if it fails.
run_stage() {
  stage=$1
  local start=$EPOCHREALTIME
  printf '\n== %s\n' "$stage"
  "${@:2}"
  seconds+=("$stage=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.1f", b - a}')")
}

# What the picture set follows from: if any of it changes, the set is made anew.
shapes_stamp() {
  printf '%s\n' "${shapes_options[*]}"
  find src/shapes -type f -name '*shapes*' -print0 | sort -z | xargs -0 cat | sha256sum
}

make_data() {
  local stamp=$shapes/made-from
  if [[ -f $stamp && $(<"$stamp") == "$(shapes_stamp)" ]]; then
    say "$shapes is there already"
    return
  fi
  rm -rf -- "$shapes"
  "$bin/tessera" make-shapes --output "$shapes" "${shapes_options[@]}"
  shapes_stamp >"$stamp"
}

make_tokenizer() {
  local stamp=$tokenizer.made-from wanted
  wanted="$vocabulary_size from $(shapes_stamp)"
  if [[ -f $tokenizer && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    say "$tokenizer is there already"
    return
  fi
  "$bin/tessera" train-tokenizer --output "$tokenizer" --vocab-size "$vocabulary_size" \
    --shards "$shapes/train-{000000..000007}.tar"
  printf '%s\n' "$wanted" >"$stamp"
}

clear_earlier_run() {
  if [[ -e $run ]]; then
    # stage1_train holds a lock of the folder as long as it runs: moved away, both runs would be lost.
    flock --nonblock "$run" true || die "$run is in use by a run that goes on: wait for its end, or stop it"
    say "an earlier run is there: moving $run to $run.previous"
    rm -rf -- "$run.previous"
    mv -- "$run" "$run.previous"
  fi
  rm -f -- "$log"  # the run folder that was moved holds the same log
}

evaluate() {
  local phase
  mkdir -p -- "$run/evaluation"
  for phase in 1 2; do
    local checkpoint=latest
    if ((phase == 1)); then checkpoint=phase1; fi
    printf '\n-- end of phase %s\n' "$phase"
    "$bin/stage1_eval" --suite all --rerank-top-k "$rerank_top_k" --checkpoint "$run/checkpoints/$checkpoint" \
      --output "$run/evaluation/phase$phase.json"
    "$bin/tessera" retrieval-pictures --checkpoint "$run/checkpoints/$checkpoint" --output "$run/evaluation/phase$phase"
  done
}

# What the memory recalls of held-out pairs, and what the model says of single pictures.
use_model() {
  local pictures=$run/evaluation/pictures
  printf '%s\n' '-- the memory: held-out pairs written, recalled by their picture alone, half of them forgotten'
  "$bin/tessera" memory experiment --model "$run/checkpoints/latest" --output "$run/evaluation/memory.json"
  printf '\n%s\n' '-- captions of held-out pictures'
  mkdir -p -- "$pictures"
  tar -xf "$shapes/val-000000.tar" -C "$pictures" --wildcards "$shown_pictures"
  "$bin/tessera" caption --model "$run/checkpoints/latest" "$pictures"/*.png
  "$bin/tessera" explain --model "$run/checkpoints/latest" --output "$run/evaluation/explain" "$pictures"/*.png
}

cd -- "$repository"
if (($# > 0)); then
  print_help "$0"
  [[ $1 == --help || $1 == -h ]] || die "unknown option '$1'"
  exit
fi

run_stage setup scripts/setup.sh
run_stage build scripts/build.sh cpu-release stage1_train stage1_eval tessera
run_stage data make_data
run_stage tokenizer make_tokenizer
clear_earlier_run
run_stage train "$bin/stage1_train" --config configs/quickstart.yaml
run_stage evaluate evaluate
run_stage use use_model

stage=summary
printf '\n== %s\n' "$stage"
"$bin/tessera" summary --run "$run" --seconds "$(IFS=,; echo "${seconds[*]}")" --output "$run/summary.json"

cat <<END

Left behind:
  $run/summary.json          figures of both phases, seconds by stage, parameters trained
  $run/evaluation/           figures of retrieval, matching and captions, every caption written, and held-out
                                     pictures with the captions found for them
  $run/evaluation/explain/   five held-out pictures with their captions, and where in them the words are
  $run/evaluation/memory.json        what the memory recalled and forgot
  $run/checkpoints/latest    the trained model;  phase1: as it was before LoRA was unfrozen
  $log   the log: grep -E "Phase (1|2): LoRA adapters"
  $shapes/              the picture set
END
