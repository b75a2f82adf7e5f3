"""Checks that transformers and peft load what the C++ side writes, and compute the same from it.

    python scripts/golden/check_against_python.py BUILD_FOLDER

Runs the vision tests' exchange case, which writes model folders, adapters and features, and compares.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

TOLERANCE = 1e-4


def largest_difference(model, pixels, expected):
    with torch.no_grad():
        return (model(pixel_values=pixels).last_hidden_state - expected).abs().max().item()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    tests = pathlib.Path(sys.argv[1]) / "tests" / "vision" / "vision_tests"
    failed = False
    with tempfile.TemporaryDirectory() as place:
        command = [str(tests), "--gtest_filter=PythonExchange.*"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "TESSERA_EXCHANGE_DIR": place})
        for folder in sorted(pathlib.Path(place).iterdir()):
            features = load_file(folder / "features.safetensors")
            model, info = AutoModel.from_pretrained(folder / "model", output_loading_info=True)
            problems = {key: value for key, value in info.items() if value}
            backbone = largest_difference(model.eval(), features["pixel_values"], features["backbone"])
            adapted_model = PeftModel.from_pretrained(model, folder / "adapter").eval()
            adapted = largest_difference(adapted_model, features["pixel_values"], features["adapted"])
            moved = (features["adapted"] - features["backbone"]).abs().max().item()
            print(f"{folder.name} ({type(model).__name__}): backbone {backbone:.1e}, with adapter {adapted:.1e} "
                  f"(the adapter moves features by {moved:.1e}); problems on loading: {problems or 'none'}")
            failed |= bool(problems) or backbone > TOLERANCE or adapted > TOLERANCE or moved < 100 * TOLERANCE
    sys.exit("the two sides differ" if failed else 0)


if __name__ == "__main__":
    main()
