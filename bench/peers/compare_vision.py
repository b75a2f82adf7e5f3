#!/usr/bin/env python3
"""Takes turns between vision_bench and transformers with PEFT: DINOv2 forward and a LoRA training step.

  compare_vision.py --bench build/cpu-release/bin/vision_bench [--size small|base|large] [--batch 8] [--repeats 5]
      [--times 2] [--output bench-results/vision.json]

Random weights of the true shape, 224 pixels, LoRA of rank 16 on query and value. Before anything is timed both programs
compute the same features and the same gradients in fp32 (1e-3 of a tensor's largest value). Rows, each in fp32 and in
bf16:

  forward_bN         the plain encoder, without gradients
  adapted_forward_bN the same with the adapter beside the weights
  merged_forward_bN  the same with the adapter in the weights
  lora_step_bN       forward, backward, an update of the adapter
  checkpointed_step_bN the same with activation checkpointing (its limit leaves out what is computed again)

Memory is the peak of a process that does nothing but the row's work.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from served import Served, machine, spread

SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
ROWS = {"forward": "plain", "adapted_forward": "adapted", "merged_forward": "merged", "lora_step": "lora_step",
        "checkpointed_step": "checkpointed_step"}


def write_inputs(folder, size, batch):
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(1)
    width, layers, heads = SIZES[size]
    model = Dinov2Model(Dinov2Config(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                                     image_size=518, patch_size=14))
    model.save_pretrained(folder / "model")
    adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.02)
    adapted.save_pretrained(folder / "adapter")
    save_file({"pixel_values": torch.randn(batch, 3, 224, 224), "cotangent": torch.randn(batch, 257, width)},
              folder / "inputs.safetensors")


def check(folder, bench):
    """The largest difference of features and gradients, as a share of each tensor's largest value."""
    from safetensors.torch import load_file

    programs = {"ours": Served("vision_bench", [bench, str(folder)]), "peer": Served("the peer", peer(folder, "fp32"))}
    worst = 0.0
    for work in ROWS.values():
        results = {}
        for who, program in programs.items():
            program.ask(f"save {work} {folder / who}")
            results[who] = load_file(folder / who)
        if set(results["ours"]) != set(results["peer"]):
            sys.exit(f"{work}: the two compute different things: {set(results['ours']) ^ set(results['peer'])}")
        for name, value in results["peer"].items():
            worst = max(worst, ((results["ours"][name] - value).abs().max() / value.abs().max()).item())
    for program in programs.values():
        program.quit()
    if not worst < 1e-3:
        sys.exit(f"the two differ by {worst:.1e} of a tensor's largest value")
    print(f"features and gradients agree within {worst:.1e} of each tensor's largest value")


def peer(folder, precision):
    return [sys.executable, str(Path(__file__).with_name("vision_peer.py")), str(folder), "--precision", precision]


def measure(folder, arguments, precision):
    programs = {"ours": Served("vision_bench", [arguments.bench, str(folder), "--precision", precision]),
                "peer": Served("the peer", peer(folder, precision))}
    turns = {name: {who: [] for who in programs} for name in ROWS}
    for work in ROWS.values():
        for program in programs.values():
            program.ask(f"run {work} 1")
    for _ in range(arguments.repeats):
        for name, work in ROWS.items():
            for who, program in programs.items():
                answer = program.ask(f"run {work} {arguments.times}")
                turns[name][who].append(answer["images"] / answer["seconds"])
    rows = []
    for name, work in ROWS.items():
        limit = programs["peer"].ask(f"limit {'lora_step' if work == 'checkpointed_step' else work} 2")
        row = {"work": f"{name}_b{arguments.batch}", "precision": precision, "unit": "images/s",
               "limit": limit["images_per_second"], "limit_from": limit}
        for who in programs:
            row[who] = spread(turns[name][who])
        row["ratio"] = spread([ours / theirs for ours, theirs in zip(turns[name]["ours"], turns[name]["peer"])])
        row["ratio_to_plain"] = spread([mine / plain for mine, plain in zip(turns[name]["ours"], turns["forward"]["ours"])])
        rows.append(row)
    for program in programs.values():
        program.quit()
    for row, work in zip(rows, ROWS.values()):
        for who, program in programs.items():
            alone = Served(program.name, program.command)
            row[who]["peak_mib"] = alone.ask(f"run {work} 2")["peak_mib"]
            alone.quit()
    return rows


def show(row):
    ours, theirs, ratio = row["ours"], row["peer"], row["ratio"]
    print(f"{row['work']:22} {row['precision']}  ours {ours['median']:6.2f} ({ours['smallest']:.2f} to "
          f"{ours['largest']:.2f})  peer {theirs['median']:6.2f} ({theirs['smallest']:.2f} to {theirs['largest']:.2f})  "
          f"ratio {ratio['median']:.2f} ({ratio['smallest']:.2f} to {ratio['largest']:.2f})  "
          f"{100 * ours['median'] / row['limit']:.0f} and {100 * theirs['median'] / row['limit']:.0f} % of the limit  "
          f"to plain {row['ratio_to_plain']['median']:.3f}  peak {ours['peak_mib']:.0f} and {theirs['peak_mib']:.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the program vision_bench")
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--times", type=int, default=1, help="runs a turn")
    parser.add_argument("--precision", action="append", choices=["fp32", "bf16"], help="default: both")
    parser.add_argument("--output", type=Path, default=Path("bench-results/vision.json"), help="JSON file")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
                 f"import pathlib, compare_vision as c; c.write_inputs(pathlib.Path({place!r}), {arguments.size!r}, "
                 f"{arguments.batch})"]
        subprocess.run(write, check=True)  # in a process of its own, whose memory is not counted
        check(folder, arguments.bench)
        for precision in arguments.precision or ["fp32", "bf16"]:
            rows += measure(folder, arguments, precision)
    for row in rows:
        show(row)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": machine(), "size": arguments.size, "rows": rows}, indent=1) + "\n")
    print(f"{machine()}; DINOv2 {arguments.size}; written to {arguments.output}")


if __name__ == "__main__":
    main()
