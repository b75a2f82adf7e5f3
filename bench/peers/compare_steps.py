#!/usr/bin/env python3
"""Takes turns between step_bench and the same step in PyTorch, and says which is faster by how much.

  compare_steps.py --bench build/cpu-release/bin/step_bench --row quickstart_step=configs/quickstart.yaml
      [--row NAME=CONFIG]... [--repeats 5] [--steps 10] [--compile] [--output FILE]

Before anything is timed, both compute the same batches with the same weights and the same drawn negatives in fp32, and
every loss has to agree to 1e-3. Then, in turn, each does a few steps, again and again: the ratio of a row is the median
over the turns of (ours / peer's) pairs a second, with the smallest and largest.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEER = Path(__file__).with_name("step_peer.py")


class Served:
    """A program that measures on demand, over its standard input and output."""

    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, question):
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}")
        return json.loads(answer)

    def quit(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate("quit\n")


def machine():
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def rate(answer):
    return answer["pairs"] / answer["seconds"]


def spread(values):
    return {"median": statistics.median(values), "smallest": min(values), "largest": max(values)}


def measure(name, config, arguments):
    bench = [arguments.bench, "--config", config, "--phase", "2"]
    for override in arguments.set:
        bench += ["--set", override]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*bench, "--export", folder], check=True)
        peer = [sys.executable, str(PEER), folder]
        subprocess.run([*peer, "--check"], check=True)
        programs = {"tessera": Served("step_bench", [*bench, "--serve"]),
                    "eager": Served("PyTorch eager", [*peer, "--serve"])}
        failed = None
        if arguments.compile:
            programs["compile"] = Served("torch.compile", [*peer, "--serve", "--compile"])
        try:
            for key in list(programs):
                start = time.time()
                try:
                    programs[key].ask(f"run {arguments.warm_up}")
                except RuntimeError as error:
                    if key != "compile":
                        raise
                    failed = str(error)
                    del programs[key]
                else:
                    print(f"{name}: {key}: warmed up in {time.time() - start:.0f} s", flush=True)
            turns = {key: [] for key in programs}
            for _ in range(arguments.repeats):
                for key, program in programs.items():
                    turns[key].append(program.ask(f"run {arguments.steps}"))
            parts = {key: programs[key].ask(f"parts {arguments.steps}") for key in ("tessera", "eager")}
        finally:
            for program in programs.values():
                program.quit()
    result = {"row": name, "config": config, "machine": machine(), "threads": len(os.sched_getaffinity(0)),
              "batch": turns["tessera"][0]["pairs"] / arguments.steps, "parts": parts}
    for key, answers in turns.items():
        result[key] = {"pairs_per_second": spread([rate(answer) for answer in answers]),
                       "peak_mib": max(answer["peak_mib"] for answer in answers)}
        if key != "tessera":
            result[key]["ratio"] = spread([rate(ours) / rate(theirs) for ours, theirs in zip(turns["tessera"], answers)])
    if failed:
        result["compile_failed"] = failed
    return result


def show(result):
    print(f"\n{result['row']}: {result['config']}, batch {result['batch']:.0f}, {result['machine']}")
    for key in ("tessera", "eager", "compile"):
        if key not in result:
            continue
        pairs = result[key]["pairs_per_second"]
        line = (f"  {key:8} {pairs['median']:8.1f} pairs/s ({pairs['smallest']:.1f} to {pairs['largest']:.1f}), "
                f"peak {result[key]['peak_mib']:.0f} MiB")
        if "ratio" in result[key]:
            ratio = result[key]["ratio"]
            line += f"; tessera is {ratio['median']:.2f} times as fast ({ratio['smallest']:.2f} to {ratio['largest']:.2f})"
        print(line)
    if "compile_failed" in result:
        print(f"  compile  failed: {result['compile_failed']}")
    for key, rows in result["parts"].items():
        print(f"  {key}, milliseconds a step by part:")
        for row in rows:
            forward, backward = row["forward_ms"], row["backward_ms"]
            print(f"    {row['part']:18} forward {forward:8.1f}  backward {backward:8.1f}  sum {forward + backward:8.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the program step_bench")
    parser.add_argument("--row", action="append", required=True, metavar="NAME=CONFIG")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides a key of every configuration")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps a turn")
    parser.add_argument("--warm-up", type=int, default=10, help="steps before the first turn")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    results = []
    for row in arguments.row:
        name, _, config = row.partition("=")
        if not config:
            parser.error(f"--row: expected NAME=CONFIG, found '{row}'")
        results.append(measure(name, config, arguments))
        show(results[-1])
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
