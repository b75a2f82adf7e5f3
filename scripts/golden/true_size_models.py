"""Models and adapters of DINOv2's true shapes with random weights, for check_against_python.py.

    python scripts/golden/true_size_models.py FOLDER [SIZE...]        (small, base, large, giant; default: the first three)

FOLDER/SIZE is a Hugging Face folder with safetensors (giant: in shards), SIZE-bin the same weights as pytorch_model.bin,
SIZE.pth under the names of facebookresearch/dinov2, SIZE-adapter a PEFT adapter. Norms, biases and position embeddings
are away from what they are initialised with, so that each of them matters. A size takes four times its weights on disk
(giant: 18 GB).
"""

import argparse
import json
import pathlib
import shutil

import make_checkpoints
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import Dinov2Config, Dinov2Model

SIZES = {
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "giant": {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True},
}
ADAPTERS = {
    "small": {"target_modules": ["q_proj", "v_proj", "fc1"], "use_dora": True},
    "base": {"target_modules": "all-linear"},
    "large": {"target_modules": ["q_proj", "v_proj", "fc1"]},
    "giant": {"target_modules": ["q_proj", "v_proj", "down_proj"]},
}
PROCESSOR = {
    "image_processor_type": "BitImageProcessor", "do_convert_rgb": True, "do_resize": True,
    "size": {"shortest_edge": 256}, "resample": 3, "do_center_crop": True, "crop_size": {"height": 224, "width": 224},
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def model_of(size):
    torch.manual_seed(1)
    model = Dinov2Model(Dinov2Config(**SIZES[size], image_size=518, patch_size=14))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1 and "lambda" not in name:
                value.add_(torch.randn_like(value), alpha=0.1)
            elif value.dim() == 2 and "mask" not in name:
                value.mul_(1.5)
            elif "position" in name:
                value.normal_(0, 0.3)
    return model


def write(folder, size):
    model = model_of(size)
    model.save_pretrained(folder / size, max_shard_size="2GB")
    (folder / size / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    torch.save(make_checkpoints.facebook_tensors(model, torch.float32, 0), folder / f"{size}.pth")
    one_file = folder / f"{size}-bin"
    one_file.mkdir(exist_ok=True)
    tensors = {}
    for shard in sorted((folder / size).glob("*.safetensors")):
        tensors |= load_file(shard)
    torch.save(tensors, one_file / "pytorch_model.bin")
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(folder / size / name, one_file / name)
    del tensors
    adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, **ADAPTERS[size]))
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.02)
    adapted.save_pretrained(folder / f"{size}-adapter")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=", ".join(SIZES))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for size in arguments.sizes or ["small", "base", "large"]:
        if size not in SIZES:
            parser.error(f"SIZE: expected one of {', '.join(SIZES)}, found {size}")
        write(arguments.folder, size)
        print(f"{arguments.folder / size}, {size}-bin, {size}.pth, {size}-adapter", flush=True)


if __name__ == "__main__":
    main()
