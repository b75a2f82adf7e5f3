"""The encoder of compare_vision.py in transformers and PEFT, served as vision_bench serves ours."""

import argparse
import functools
import json
import sys
import time
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from served import peak_mib, product_rate

warnings.filterwarnings("ignore")


STEPS = {"lora_step": False, "checkpointed_step": True}  # whether by activation checkpointing


class Encoder:
    def __init__(self, folder, bfloat16):
        self.bfloat16 = bfloat16
        self.folder = folder
        inputs = load_file(folder / "inputs.safetensors")
        self.pixels, self.cotangent = inputs["pixel_values"], inputs["cotangent"]

    def features(self, model):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            return model(pixel_values=self.pixels).last_hidden_state.float()

    # Each model once it is asked for, so that a process that does one work has that work's memory.
    @functools.cached_property
    def plain(self):
        return AutoModel.from_pretrained(self.folder / "model").eval()

    @functools.cached_property
    def adapted(self):
        return PeftModel.from_pretrained(AutoModel.from_pretrained(self.folder / "model"), self.folder / "adapter",
                                         is_trainable=True)

    @functools.cached_property
    def merged(self):
        model = PeftModel.from_pretrained(AutoModel.from_pretrained(self.folder / "model"), self.folder / "adapter")
        return model.merge_and_unload().eval()

    @functools.cached_property
    def trained(self):
        return [value for value in self.adapted.parameters() if value.requires_grad]

    def backward(self, checkpointed):
        for value in self.trained:
            value.grad = None
        self.adapted.train()
        model = self.adapted.get_base_model()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()
        (self.features(self.adapted) * self.cotangent).sum().backward()

    def run(self, work):
        if work in STEPS:
            self.backward(STEPS[work])
            with torch.no_grad():
                for value in self.trained:
                    value.add_(value.grad, alpha=-1e-9)
            return
        with torch.no_grad():
            self.features(getattr(self, work).eval())

    def run_many(self, work, times):
        start = time.perf_counter()
        for _ in range(times):
            self.run(work)
        return {"images": times * len(self.pixels), "seconds": time.perf_counter() - start, "peak_mib": peak_mib()}

    def save(self, work, path):
        if work in STEPS:
            self.backward(STEPS[work])
            results = {name.replace(".default.", "."): value.grad
                       for name, value in self.adapted.named_parameters() if value.requires_grad}
        else:
            with torch.no_grad():
                results = {"features": self.features(getattr(self, work).eval())}
        save_file({name: value.contiguous() for name, value in results.items()}, path)
        return {}

    def limit(self, work, seconds):
        """Images a second if the work were nothing but its matrix products, at the rate of a large one."""
        with FlopCounterMode(display=False) as counter:
            self.run(work)
        rate = product_rate(torch, torch.bfloat16 if self.bfloat16 else torch.float32, seconds)
        flop = counter.get_total_flops()
        return {"images_per_second": len(self.pixels) * rate / flop, "flop": flop, "flop_per_second": rate}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    arguments = parser.parse_args()
    encoder = Encoder(arguments.folder, arguments.precision == "bf16")
    for line in sys.stdin:
        command, *words = line.split()
        if command == "quit":
            break
        work, rest = words
        actions = {"run": lambda: encoder.run_many(work, int(rest)), "save": lambda: encoder.save(work, rest),
                   "limit": lambda: encoder.limit(work, int(rest))}
        print(json.dumps(actions[command]()), flush=True)


if __name__ == "__main__":
    main()
