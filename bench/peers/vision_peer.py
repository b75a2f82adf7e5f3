"""The encoder of compare_vision.py in transformers and PEFT, served as vision_bench serves ours."""

import argparse
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


class Encoder:
    def __init__(self, folder, bfloat16):
        self.bfloat16 = bfloat16
        self.plain = AutoModel.from_pretrained(folder / "model").eval()
        self.adapted = PeftModel.from_pretrained(AutoModel.from_pretrained(folder / "model"), folder / "adapter",
                                                 is_trainable=True)
        self.merged = PeftModel.from_pretrained(AutoModel.from_pretrained(folder / "model"), folder / "adapter")
        self.merged = self.merged.merge_and_unload().eval()
        self.trained = [value for value in self.adapted.parameters() if value.requires_grad]
        inputs = load_file(folder / "inputs.safetensors")
        self.pixels, self.cotangent = inputs["pixel_values"], inputs["cotangent"]

    def features(self, model):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            return model(pixel_values=self.pixels).last_hidden_state.float()

    def backward(self):
        for value in self.trained:
            value.grad = None
        self.adapted.train()
        (self.features(self.adapted) * self.cotangent).sum().backward()

    def run(self, work):
        if work == "lora_step":
            self.backward()
            with torch.no_grad():
                for value in self.trained:
                    value.add_(value.grad, alpha=-1e-9)
            return
        model = {"plain": self.plain, "merged": self.merged, "adapted": self.adapted}[work].eval()
        with torch.no_grad():
            self.features(model)

    def run_many(self, work, times):
        start = time.perf_counter()
        for _ in range(times):
            self.run(work)
        return {"images": times * len(self.pixels), "seconds": time.perf_counter() - start, "peak_mib": peak_mib()}

    def save(self, work, path):
        if work == "lora_step":
            self.backward()
            results = {name.replace(".default.", "."): value.grad
                       for name, value in self.adapted.named_parameters() if value.requires_grad}
        else:
            model = {"plain": self.plain, "merged": self.merged, "adapted": self.adapted}[work].eval()
            with torch.no_grad():
                results = {"features": self.features(model)}
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
