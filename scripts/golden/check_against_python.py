"""Checks that transformers and peft compute what the C++ side computes, from the same files.

    python scripts/golden/check_against_python.py [BUILD_FOLDER]
    python scripts/golden/check_against_python.py [BUILD_FOLDER] --model DIR [--adapter DIR] [--images 4]
    python scripts/golden/check_against_python.py [BUILD_FOLDER] --model FILE.pth --reference DIR

Without --model: runs the vision tests' exchange case, which writes model folders, adapters and features; transformers
and peft load the folders and have to give the same features, adapters with old names after `tessera adapter convert`.
check_adapters.py goes the other way, with adapters that peft makes.
With it: draws random images, runs `tessera features` on the folder and transformers with peft on the same images, through
each side's own image processing; --reference names the Hugging Face folder with the weights of a file that transformers
doesn't read (true_size_models.py makes both). Ends with 1 where features differ by more than 1e-4.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy
import torch
from peft import PeftModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel

TOLERANCE = 1e-4


def largest_difference(model, pixels, expected):
    with torch.no_grad():
        return (model(pixel_values=pixels).last_hidden_state - expected).abs().max().item()


def loading_problems(info):
    return {key: value for key, value in info.items() if value}


def with_adapter(folder, name, features):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that peft leaves out: the features tell
        model = PeftModel.from_pretrained(AutoModel.from_pretrained(folder / "model"), folder / name)
    return largest_difference(model.eval(), features["pixel_values"], features["adapted"])


def check_exchange(build):
    tests = build / "tests" / "lora" / "lora_tests"
    failed = False
    with tempfile.TemporaryDirectory() as place:
        command = [str(tests), "--gtest_filter=PythonExchange.*"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "TESSERA_EXCHANGE_DIR": place})
        for folder in sorted(pathlib.Path(place).iterdir()):
            features = load_file(folder / "features.safetensors")
            model, info = AutoModel.from_pretrained(folder / "model", output_loading_info=True)
            problems = loading_problems(info)
            pixels = features["pixel_values"]
            backbone = largest_difference(model.eval(), pixels, features["backbone"])
            adapted = with_adapter(folder, "adapter", features)
            moved = (features["adapted"] - features["backbone"]).abs().max().item()
            print(f"{folder.name} ({type(model).__name__}): backbone {backbone:.1e}, with adapter {adapted:.1e} "
                  f"(the adapter moves features by {moved:.1e}); problems on loading: {problems or 'none'}")
            failed |= bool(problems) or backbone > TOLERANCE or adapted > TOLERANCE or moved < 100 * TOLERANCE

            if not (folder / "adapter_old_names").exists():
                continue
            # peft 0.21 refuses old names or leaves out what it doesn't find; converted, the adapter is whole.
            try:
                before = f"{with_adapter(folder, 'adapter_old_names', features):.1e}"
                failed |= float(before) <= TOLERANCE
            except ValueError as error:
                before = type(error).__name__
            subprocess.run([str(build / "bin" / "tessera"), "adapter", "convert", str(folder / "adapter_old_names"),
                            "--output", str(folder / "converted")], check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
            after = with_adapter(folder, "converted", features)
            print(f"    in the old naming: {before}; converted: {after:.1e}")
            failed |= after > TOLERANCE
    return failed


def random_images(folder, count):
    """Noise over a gradient, in sizes that the processor enlarges, shrinks and crops."""
    random = numpy.random.default_rng(1)
    paths = []
    for number in range(count):
        height, width = random.integers(120, 700, 2)
        slope = numpy.linspace(0, 200, width)[None, :, None]
        pixels = numpy.clip(slope + random.normal(0, 60, (height, width, 3)), 0, 255).astype(numpy.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def check_model(build, model_path, adapter_folder, count, reference):
    """transformers loads `reference`, which is the model itself or has the same weights."""
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        paths = random_images(place, count)
        output = place / "features.safetensors"
        command = [str(build / "bin" / "tessera"), "features", "--model", str(model_path), "--what", "tokens",
                   "--batch-size", "2", "--output", str(output), "--images", *map(str, paths)]
        if reference != model_path:  # transformers knows one interpolation for a class, facebook's files mean another
            command += ["--position-interpolation", "size"]
        if adapter_folder:
            command += ["--adapter", str(adapter_folder)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        with safe_open(output, "pt") as file:
            ours = file.get_tensor("tokens" if "tokens" in file.keys() else list(file.keys())[0])
        processor = AutoImageProcessor.from_pretrained(reference, backend="pil")
        pixels = processor([Image.open(path) for path in paths], return_tensors="pt")["pixel_values"]
        model, info = AutoModel.from_pretrained(reference, output_loading_info=True)
        problems = loading_problems(info)
        if adapter_folder:
            model = PeftModel.from_pretrained(model, adapter_folder)
        with torch.no_grad():
            halves = [model.eval()(pixel_values=some).last_hidden_state for some in pixels.split(2)]
        theirs = torch.cat(halves)
        difference = (ours - theirs).abs().max().item()
        print(f"{model_path}{f' with {adapter_folder}' if adapter_folder else ''}: {count} images, features of "
              f"deviation {theirs.std().item():.2f}, largest difference {difference:.1e}; problems on loading: "
              f"{problems or 'none'}")
        return bool(problems) or not difference <= TOLERANCE


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, nargs="?", default=pathlib.Path("build/cpu-release"),
                        help="build folder (default: %(default)s)")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--adapter", type=pathlib.Path)
    parser.add_argument("--reference", type=pathlib.Path)
    parser.add_argument("--images", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.adapter and not arguments.model:
        parser.error("--adapter goes with --model")
    if arguments.model:
        failed = check_model(arguments.build, arguments.model, arguments.adapter, arguments.images,
                             arguments.reference or arguments.model)
    else:
        failed = check_exchange(arguments.build)
    sys.exit("the two sides differ" if failed else 0)


if __name__ == "__main__":
    main()
