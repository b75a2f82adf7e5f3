#!/usr/bin/env python3
"""Takes turns between step_bench and the same step in PyTorch, and says which is faster by how much.

  compare_steps.py --bench build/cpu-release/bin/step_bench --row quickstart_step=configs/quickstart.yaml
      [--row NAME=CONFIG[,KEY=VALUE]...]... [--repeats 5] [--steps 10] [--compile] [--output bench-results/step.json]

Before anything is timed, both compute the same batches with the same weights and the same drawn negatives in fp32, and
every loss has to agree to 1e-3. Then, in turn, each does a few steps, again and again: the ratio of a row is the median
over the turns of (ours / peer's) pairs a second, with the smallest and largest. The limit is what the step's matrix
products alone would allow, at the rate that a large one reaches here in the same precision.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from served import Served, machine, spread

PEER = Path(__file__).with_name("step_peer.py")


def rate(answer):
    return answer["pairs"] / answer["seconds"]


class Programs:
    """Those that a row compares, running and warmed up."""

    def __init__(self, name, config, overrides, arguments, folder):
        settings = [word for override in overrides for word in ("--set", override)]
        bench = [arguments.bench, "--config", config, "--phase", "2", *settings]
        subprocess.run([*bench, "--export", folder], check=True)
        peer = [sys.executable, str(PEER), folder]
        subprocess.run([*peer, "--check"], check=True)
        self.compile_failed = None
        self.running = {"tessera": Served("step_bench", [*bench, "--serve"]),
                        "eager": Served("PyTorch eager", [*peer, "--serve"])}
        if arguments.compile:
            self.running["compile"] = Served("torch.compile", [*peer, "--serve", "--compile"])
        for key in list(self.running):
            start = time.time()
            try:
                self.running[key].ask(f"run {arguments.warm_up}")
            except RuntimeError as error:
                if key != "compile":
                    raise
                self.compile_failed = str(error)
                del self.running[key]
            else:
                print(f"{name}: {key}: warmed up in {time.time() - start:.0f} s", flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for program in self.running.values():
            program.quit()


def measure(name, config, overrides, arguments):
    with tempfile.TemporaryDirectory() as folder, Programs(name, config, overrides, arguments, folder) as programs:
        running = programs.running
        turns = {key: [] for key in running}
        for _ in range(arguments.repeats):
            for key, program in running.items():
                turns[key].append(program.ask(f"run {arguments.steps}"))
        parts = {key: running[key].ask(f"parts {arguments.steps}") for key in ("tessera", "eager")}
        limit = running["eager"].ask("limit 2")
    rates = {key: [rate(answer) for answer in answers] for key, answers in turns.items()}
    row = {"work": name, "config": config, "overrides": overrides,
           "batch": turns["tessera"][0]["pairs"] / arguments.steps, "unit": "pairs/s"}
    for key, answers in turns.items():
        who = {"tessera": "ours", "eager": "peer", "compile": "compile"}[key]
        row[who] = spread(rates[key]) | {"peak_mib": max(answer["peak_mib"] for answer in answers)}
    row["ratio"] = spread([ours / peer for ours, peer in zip(rates["tessera"], rates["eager"])])
    if "compile" in rates:
        row["ratio_to_compile"] = spread([ours / peer for ours, peer in zip(rates["tessera"], rates["compile"])])
    if programs.compile_failed:
        row["compile_failed"] = programs.compile_failed
    row["limit"] = limit["pairs_per_second"]
    row["limit_from"] = limit
    row["parts_ms"] = {"ours": parts["tessera"], "peer": parts["eager"]}
    return row


def in_words(row, who, ratio):
    pairs = row[who]
    line = (f"  {who:8} {pairs['median']:8.1f} pairs/s ({pairs['smallest']:.1f} to {pairs['largest']:.1f}), "
            f"{100 * pairs['median'] / row['limit']:.0f} % of the limit, peak {pairs['peak_mib']:.0f} MiB")
    if ratio:
        line += (f"; ours is {ratio['median']:.2f} times as fast "
                 f"({ratio['smallest']:.2f} to {ratio['largest']:.2f})")
    return line


def show(row):
    print(f"\n{row['work']}: {row['config']} {' '.join(row['overrides'])}, batch {row['batch']:.0f}")
    print(in_words(row, "ours", None))
    print(in_words(row, "peer", row["ratio"]))
    if "compile" in row:
        print(in_words(row, "compile", row["ratio_to_compile"]))
    if "compile_failed" in row:
        print(f"  compile  failed: {row['compile_failed']}")
    print(f"  limit    {row['limit']:8.1f} pairs/s: {row['limit_from']['flop'] / 1e9:.1f} GFLOP of matrix products a step "
          f"at {row['limit_from']['flop_per_second'] / 1e9:.0f} GFLOP/s")
    for who, parts in row["parts_ms"].items():
        print(f"  {who}, milliseconds a step by part:")
        for part in parts:
            forward, backward = part["forward_ms"], part["backward_ms"]
            print(f"    {part['part']:18} forward {forward:8.1f}  backward {backward:8.1f}  sum {forward + backward:8.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the program step_bench")
    parser.add_argument("--row", action="append", required=True, metavar="NAME=CONFIG[,KEY=VALUE]...")
    parser.add_argument("--only", action="append", metavar="NAME", help="measure these rows alone")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides a key of every configuration")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps a turn")
    parser.add_argument("--warm-up", type=int, default=10, help="steps before the first turn")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    parser.add_argument("--output", type=Path, default=Path("bench-results/step.json"), help="JSON file")
    arguments = parser.parse_args()
    unknown = set(arguments.only or []) - {row.partition("=")[0] for row in arguments.row}
    if unknown:
        parser.error(f"--only: there is no row {', '.join(sorted(unknown))}")
    rows = []
    for row in arguments.row:
        name, _, rest = row.partition("=")
        config, *overrides = rest.split(",")
        if not config:
            parser.error(f"--row: expected NAME=CONFIG, found '{row}'")
        if arguments.only and name not in arguments.only:
            continue
        rows.append(measure(name, config, arguments.set + overrides, arguments))
        show(rows[-1])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    print(f"\n{machine()}; written to {arguments.output}")


if __name__ == "__main__":
    main()
