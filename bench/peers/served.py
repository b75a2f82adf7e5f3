"""Programs that measure on demand, and the machine that they measure on."""

import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import time
from pathlib import Path


class Served:
    """A program that answers lines on its standard input with lines of JSON."""

    def __init__(self, name, command):
        self.name, self.command = name, command
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


def spread(values):
    return {"median": statistics.median(values), "smallest": min(values), "largest": max(values)}


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def product_rate(torch, dtype, seconds):
    """Floating-point operations a second of a large matrix product."""
    left, right = (torch.randn(1536, 1536, dtype=dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * 1536**3 / best
