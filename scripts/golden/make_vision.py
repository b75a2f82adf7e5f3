"""Golden cases of the vision ops (dinov2, dinov2_lora, compressor) from transformers 5.23.0 and peft 0.21.2.

Weights and inputs are float32 values; the reference computes in float64 (transformers interpolates positions in float32
all the same), and its results are rounded to float32. In evaluation mode, but for the cases of training, in which PEFT's
adapters drop the elements that Tessera drops (class Dropped): which ones fall is free, what is made of them is not.

    python scripts/golden/make_vision.py [FOLDER]        (default: tests/golden)
"""

import json
import math
import os
import pathlib
import sys
import tempfile

# One order of summation, so that the files come out the same each time; read when torch is imported.
os.environ["MKL_CBWR"] = "COMPATIBLE"

import numpy
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from transformers import (Dinov2Config, Dinov2ForImageClassification, Dinov2Model, Dinov2WithRegistersConfig,
                          Dinov2WithRegistersModel)
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import Dinov2WithRegistersEmbeddings

from case import write_case

LEGACY_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.down_proj": "mlp.weights_out",
}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}


def legacy(name):
    for current, old in LEGACY_NAMES.items():
        name = name.replace(current + ".", old + ".")
    return name


def legacy_tensors(tensors):
    """Names of transformers 5's modules -> keys of the files, in which SwiGLU's two inner matrices are one."""
    renamed = {}
    for name, tensor in tensors.items():
        if ".gate_proj." in name:
            pair = [tensor, tensors[name.replace("gate_proj", "up_proj")]]
            renamed[name.replace("gate_proj", "weights_in")] = torch.cat(pair)
        elif ".up_proj." not in name:
            renamed[legacy(name)] = tensor
    return renamed


def float32_values(shape, deviation, generator, mean=0.0):
    return (mean + deviation * torch.randn(shape, generator=generator)).float().double()


def fill(model, generator):
    """Values at which every part matters: norms and layer scales away from 1, attention away from uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                value = float32_values(parameter.shape, 0.2, generator, mean=1.0)
            elif name.endswith("lambda1"):
                value = float32_values(parameter.shape, 0.3, generator, mean=0.7)
            elif parameter.dim() == 1:
                value = float32_values(parameter.shape, 0.2, generator)
            elif "embeddings." in name and "projection" not in name:
                value = float32_values(parameter.shape, 0.5, generator)
            else:
                fan_in = parameter[0].numel()
                value = float32_values(parameter.shape, 1.5 / math.sqrt(fan_in), generator)
            parameter.copy_(value)


def hub_positions(self, embeddings, height, width):
    """Position interpolation of the non-register models of facebookresearch/dinov2 (interpolate_offset 0.1)."""
    positions = self.position_embeddings
    count = positions.shape[1] - 1
    if embeddings.shape[1] - 1 == count and height == width:
        return positions
    grid = int(math.sqrt(count))
    rows, columns = height // self.config.patch_size, width // self.config.patch_size
    patches = positions[:, 1:].float().reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    scale = ((rows + 0.1) / grid, (columns + 0.1) / grid)
    patches = torch.nn.functional.interpolate(patches, scale_factor=scale, mode="bicubic")
    assert patches.shape[-2:] == (rows, columns)
    patches = patches.permute(0, 2, 3, 1).reshape(1, rows * columns, -1).to(positions.dtype)
    return torch.cat([positions[:, :1], patches], dim=1)


INTERPOLATIONS = {
    "scale_factor": hub_positions,
    "size": Dinov2Embeddings.interpolate_pos_encoding,
    "size_antialias": Dinov2WithRegistersEmbeddings.interpolate_pos_encoding,
}


def build(settings, generator, registers=None):
    settings = {**SMALL, **settings}
    if registers is None:
        model = Dinov2Model(Dinov2Config(**settings, attn_implementation="eager"))
    else:
        config = Dinov2WithRegistersConfig(**settings, num_register_tokens=registers, attn_implementation="eager")
        model = Dinov2WithRegistersModel(config)
    model = model.double().eval()
    fill(model, generator)
    return model


def run(model, size, generator):
    """One forward and backward pass: inputs, outputs, cotangents; gradients are left in the leaves."""
    pixels = float32_values((2, 3, *size), 1.0, generator).requires_grad_()
    result = model(pixel_values=pixels)
    outputs = {"last_hidden_state": result.last_hidden_state, "pooler_output": result.pooler_output}
    cotangents = {name: float32_values(value.shape, 1.0, generator) for name, value in outputs.items()}
    sum((outputs[name] * cotangents[name]).sum() for name in outputs).backward()
    return pixels, outputs, cotangents


def as_float32(tensors):
    return {name: tensor.detach().float() for name, tensor in tensors.items()}


def write(path, op, params, pixels, outputs, cotangents, weights, grads, adapter=None):
    grads = {**grads, "in.pixel_values": pixels.grad}
    write_case(
        path,
        op,
        params=params,
        inputs=as_float32({"pixel_values": pixels}),
        weights=as_float32(weights),
        adapter=as_float32(adapter or {}),
        outputs=as_float32(outputs),
        grads=as_float32(grads),
        cotangents=as_float32(cotangents),
    )


def config_object(model):
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        return json.loads((pathlib.Path(folder) / "config.json").read_text())


def dinov2_case(folder, name, seed, size, settings=None, registers=None, interpolation="auto"):
    generator = torch.Generator().manual_seed(seed)
    model = build(settings or {}, generator, registers)
    if interpolation != "auto":
        model.embeddings.interpolate_pos_encoding = INTERPOLATIONS[interpolation].__get__(model.embeddings)
    pixels, outputs, cotangents = run(model, size, generator)
    weights = dict(model.named_parameters())
    gradients = legacy_tensors({key: value.grad for key, value in weights.items() if value.grad is not None})
    params = {"config": config_object(model), "position_interpolation": interpolation}
    grads = {f"w.{key}": value for key, value in gradients.items()}
    write(folder / f"dinov2_{name}.safetensors", "dinov2", params, pixels, outputs, cotangents,
          legacy_tensors(weights), grads)


def disturb(name, value, generator):
    """Values at which every part of an adapter matters."""
    if "lora_magnitude_vector" in name:
        value.mul_(float32_values(value.shape, 0.2, generator, mean=1.0))
    elif "lora_" in name:
        # Enough to matter; at twice this, float32 alone costs the gradients 2e-4 (attention gets too sharp).
        value.copy_(float32_values(value.shape, 0.2, generator))
    else:
        value.add_(float32_values(value.shape, 0.1, generator))


class Dropped(torch.nn.Module):
    """Dropout with the elements that ops::dropout drops: a hash of their places and of a seed, which each call draws from
    the generator of the CPU (src/ops/cpu/activation_kernel.cpp)."""

    def __init__(self, probability):
        super().__init__()
        self.probability = probability

    def forward(self, x):
        seed = int(torch.empty((), dtype=torch.int64).random_(-2**63, None)) % 2**64
        bits = numpy.arange(x.numel(), dtype=numpy.uint32) ^ numpy.uint32(seed % 2**32)
        for part in (numpy.uint32(seed >> 32), None):
            bits ^= bits >> numpy.uint32(16)
            bits *= numpy.uint32(0x7FEB352D)
            bits ^= bits >> numpy.uint32(15)
            bits *= numpy.uint32(0x846CA68B)
            bits ^= bits >> numpy.uint32(16)
            if part is not None:
                bits ^= part
        kept = torch.from_numpy(bits >= numpy.uint32(self.probability * 2**32)).view(x.shape)
        return torch.where(kept, x / (1 - self.probability), 0)


def train(model, seed):
    """Training mode, with Tessera's dropout in place of torch's."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.Dropout) and child.p > 0:
                setattr(module, name, Dropped(child.p))
    model.train()
    torch.manual_seed(seed)


def sorted_lists(config):
    """Lists that come from sets, whose order would differ from run to run."""
    for field in ("target_modules", "exclude_modules"):
        if isinstance(config[field], list):
            config[field] = sorted(config[field])
    return config


def lora_case(folder, name, seed, size, lora, settings=None, registers=None, legacy_names=False, merged=False,
              head=False, training=False):
    generator = torch.Generator().manual_seed(seed)
    # PiSSA and OLoRA take the weights apart in float32.
    base = build(settings or {}, generator, registers).float()
    config = config_object(base)
    weights = legacy_tensors({key: value.detach().clone() for key, value in base.named_parameters()})
    whole = base
    if head:
        whole = Dinov2ForImageClassification(base.config)
        whole.dinov2 = base
    model = get_peft_model(whole, LoraConfig(**lora)).double().eval()
    by_place = {value.data_ptr(): (key, value) for key, value in model.named_parameters()}
    parameters = {}
    for key, value in get_peft_model_state_dict(model).items():
        full_name, parameters[key] = by_place[value.data_ptr()]
        with torch.no_grad():
            disturb(full_name, parameters[key], generator)
            parameters[key].copy_(parameters[key].float())
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        adapter_config = sorted_lists(json.loads((pathlib.Path(place) / "adapter_config.json").read_text()))
    adapter = {key: value.detach().clone() for key, value in parameters.items()}
    if merged:
        model = model.merge_and_unload().eval()
    if training:
        train(model, seed)
    pixels, outputs, cotangents = run(base if head else model, size, generator)
    rename = legacy if legacy_names else lambda key: key
    if legacy_names:
        # As an older transformers, whose modules had the names of the files, saved the same adapter.
        adapter_config["target_modules"] = [
            legacy(f"attention.{target}.").split(".")[-2] for target in adapter_config["target_modules"]
        ]
    params = {"config": config, "position_interpolation": "auto", "adapter_config": adapter_config}
    if merged:
        params["merged"] = True
    if training:
        params["training_seed"] = seed
    grads = {} if merged else {f"adapter.{rename(key)}": value.grad for key, value in parameters.items()}
    adapter = {rename(key): value for key, value in adapter.items()}
    write(folder / f"dinov2_lora_{name}.safetensors", "dinov2_lora", params, pixels, outputs, cotangents, weights,
          grads, adapter)


def compressor_case(folder, name, seed, sizes, training=False):
    generator = torch.Generator().manual_seed(seed)
    inputs, hidden, output = sizes
    model = torch.nn.Sequential(
        torch.nn.Linear(inputs, hidden),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.1),
        torch.nn.Linear(hidden, output),
        torch.nn.LayerNorm(output),
    )
    model = model.double().eval()
    fill(model, generator)
    with torch.no_grad():
        model[4].weight.copy_(float32_values(model[4].weight.shape, 0.2, generator, mean=1.0))
    hidden_states = float32_values((2, 5, inputs), 1.0, generator).requires_grad_()
    if training:
        train(model, seed)
    compressed = model(hidden_states)
    cotangent = float32_values(compressed.shape, 1.0, generator)
    (compressed * cotangent).sum().backward()
    grads = {f"w.{key}": value.grad for key, value in model.named_parameters()}
    write_case(
        folder / f"compressor_{name}.safetensors",
        "compressor",
        params={"training_seed": seed} if training else {},
        inputs=as_float32({"hidden_states": hidden_states}),
        weights=as_float32(dict(model.named_parameters())),
        outputs=as_float32({"compressed": compressed}),
        grads=as_float32({**grads, "in.hidden_states": hidden_states.grad}),
        cotangents=as_float32({"compressed": cotangent}),
    )


def main():
    torch.set_num_threads(1)
    default = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    patch14 = {"image_size": 28, "patch_size": 14, "num_attention_heads": 1}
    dinov2_case(folder, "patch14", 1, (28, 28), patch14)
    dinov2_case(folder, "size_down", 2, (12, 12), interpolation="size")
    dinov2_case(folder, "size_up_rectangle", 3, (20, 28))
    # As many patches as positions, in a rectangle: interpolated all the same.
    dinov2_case(folder, "size_same_count", 4, (8, 32))
    # Pixels beyond the last whole patch are left out; a square of the right grid that is no square of pixels.
    dinov2_case(folder, "size_ragged", 5, (17, 19), {"num_attention_heads": 4})
    dinov2_case(folder, "scale_factor_down", 6, (12, 12), interpolation="scale_factor")
    dinov2_case(folder, "scale_factor_rectangle", 7, (24, 8), interpolation="scale_factor")
    dinov2_case(folder, "registers", 8, (12, 20), {"image_size": 28}, registers=4)
    dinov2_case(folder, "registers_same_size", 9, (16, 16), registers=2, interpolation="size_antialias")
    # Each kind of model with the other kind's interpolation.
    one_layer = {"num_hidden_layers": 1, "image_size": 20}
    dinov2_case(folder, "registers_size", 10, (8, 8), one_layer, registers=1, interpolation="size")
    dinov2_case(folder, "size_antialias", 13, (8, 12), one_layer, interpolation="size_antialias")
    dinov2_case(folder, "swiglu", 11, (16, 16), {"use_swiglu_ffn": True})
    dinov2_case(folder, "no_qkv_bias", 12, (16, 16), {"qkv_bias": False, "mlp_ratio": 2, "num_hidden_layers": 1,
                                                      "layer_norm_eps": 1e-2, "use_mask_token": False})
    lora_case(folder, "query_value", 21, (16, 16), {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1,
                                                    "target_modules": ["q_proj", "v_proj"]})
    lora_case(folder, "legacy_names", 22, (12, 16), {"r": 2, "lora_alpha": 3,
                                                     "target_modules": ["q_proj", "o_proj"]}, legacy_names=True)
    lora_case(folder, "all_linear_rslora", 23, (16, 16), {"r": 4, "lora_alpha": 4, "use_rslora": True,
                                                          "target_modules": "all-linear"})
    lora_case(folder, "registers_mlp", 24, (8, 12), {"r": 3, "lora_alpha": 6, "target_modules": ["fc1", "fc2"]},
              registers=4)
    query = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    lora_case(folder, "dora", 25, (16, 16), {**query, "target_modules": ["q_proj", "fc2"], "use_dora": True})
    lora_case(folder, "dora_merged", 26, (16, 12), {**query, "target_modules": "all-linear", "use_dora": True},
              {"num_hidden_layers": 1}, merged=True)
    lora_case(folder, "merged", 27, (12, 12), {**query, "target_modules": ["q_proj", "v_proj", "fc1"]},
              {"num_hidden_layers": 1}, merged=True)
    # Patterns that are an expression, a last segment and a whole path; the first that matches counts.
    lora_case(folder, "rank_alpha_pattern", 28, (16, 16), {
        **query, "target_modules": ["q_proj", "v_proj", "fc1"], "use_rslora": True,
        "rank_pattern": {"encoder.layer.0.attention.v_proj": 5, "fc1": 3, r"layer\.1\..*q_proj": 1},
        "alpha_pattern": {r".*\.1\..*": 8, "v_proj": 5}})
    lora_case(folder, "regex_exclude", 29, (16, 16), {
        **query, "target_modules": r".*\.(?P<layer>[01])\.(attention\.[qk]_proj|mlp\.fc\d)",
        "exclude_modules": r"encoder\.layer\.1\.mlp\.(?!fc2).*"})
    lora_case(folder, "exclude_list", 30, (16, 16), {
        **query, "target_modules": "all-linear", "exclude_modules": ["fc1", "layer.0.attention.o_proj"]},
        {"num_hidden_layers": 1})
    lora_case(folder, "layers", 33, (16, 16), {**query, "layers_to_transform": [0, 2], "layers_pattern": "layer"},
              {"num_hidden_layers": 3, "hidden_size": 8})
    lora_case(folder, "bias_all", 34, (16, 16), {**query, "bias": "all"}, {"num_hidden_layers": 1})
    lora_case(folder, "bias_lora_only", 35, (16, 16), {**query, "bias": "lora_only"}, {"num_hidden_layers": 1})
    lora_case(folder, "modules_to_save", 36, (12, 16), {
        **query, "target_modules": "all-linear", "modules_to_save": ["layernorm", "norm1", "mlp"]},
        {"num_hidden_layers": 1})
    for number, init in enumerate(["pissa", "olora", "gaussian", False]):
        lora_case(folder, f"init_{str(init).lower()}", 37 + number, (16, 16),
                  {**query, "target_modules": ["q_proj", "fc1"], "init_lora_weights": init}, {"num_hidden_layers": 1})
    lora_case(folder, "swiglu", 41, (16, 16), {**query, "target_modules": "all-linear", "use_dora": True,
                                               "rank_pattern": {"up_proj": 3}},
              {"use_swiglu_ffn": True, "num_hidden_layers": 1})
    lora_case(folder, "of_classifier", 42, (16, 16), {
        **query, "target_modules": r"dinov2\.encoder\.layer\.\d\.(attention\.q_proj|mlp\.fc1)",
        "rank_pattern": {"dinov2.encoder.layer.1.attention.q_proj": 3}, "modules_to_save": ["dinov2.layernorm"]},
        head=True)
    several = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "o_proj", "fc1"]}
    lora_case(folder, "training_dropout", 43, (12, 16), {**several, "lora_dropout": 0.3}, training=True)
    lora_case(folder, "training_dora", 44, (12, 16), {**several, "use_dora": True}, training=True)
    lora_case(folder, "training_dora_dropout", 45, (12, 16), {**several, "use_dora": True, "lora_dropout": 0.4},
              training=True)
    compressor_case(folder, "training", 46, (16, 12, 8), training=True)
    compressor_case(folder, "small", 31, (16, 12, 8))
    compressor_case(folder, "wide", 32, (24, 40, 10))


if __name__ == "__main__":
    main()
