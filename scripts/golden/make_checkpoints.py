"""Small files as torch.save writes them, and what transformers computes from the same weights.

    python scripts/golden/make_checkpoints.py [FOLDER]        (default: tests/golden)

FOLDER/checkpoints/values.pth and its siblings hold all that core's reader has to know (tests/core/pytorch_file_test.cpp),
facebook_*.pth models with the names of facebookresearch/dinov2, facebook_*.safetensors beside them pixels and the
features that transformers' model of the same weights computes in float64 (tests/vision/facebook_weights_test.cpp).
hugging_face and llama are folders of older versions of transformers, with what its models compute from them.
"""

import collections
import json
import pathlib
import sys

import make_vision  # sets up torch's order of summation first
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

NARROW = {"hidden_size": 64, "num_attention_heads": 1, "image_size": 8, "patch_size": 2, "mlp_ratio": 1}
SWIGLU = {"use_swiglu_ffn": True, "num_hidden_layers": 1}
OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
}
IN_BLOCK = {
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in": "mlp.w12",
    "mlp.weights_out": "mlp.w3",
}


def facebook_name(name, chunk):
    """Of a tensor under its legacy Hugging Face key; `chunk` blocks lie in a chunk, 0: there are none."""
    parts = name.split(".")
    if parts[:2] != ["encoder", "layer"]:
        for ours, theirs in OUTSIDE.items():
            name = name.replace(ours, theirs)
        return name
    inner = ".".join(parts[3:])
    for ours, theirs in IN_BLOCK.items():
        inner = inner.replace(ours, theirs)
    index = int(parts[2])
    # facebook fills a chunk's front up with nothing, so that the second number counts through.
    place = f"{index // chunk}.{index}" if chunk else f"{index}"
    return f"blocks.{place}.{inner}"


def facebook_tensors(model, dtype, chunk):
    tensors = make_vision.legacy_tensors({key: value.detach() for key, value in model.named_parameters()})
    renamed = collections.OrderedDict()
    for name, tensor in tensors.items():
        attention = ".attention.attention."
        if f"{attention}query." in name:
            thirds = [tensors[name.replace("query", part)] for part in ("query", "key", "value")]
            renamed[facebook_name(name, chunk).replace(attention[1:] + "query", "attn.qkv")] = torch.cat(thirds)
        elif attention not in name:
            renamed[facebook_name(name, chunk)] = tensor
    return collections.OrderedDict((name, tensor.to(dtype)) for name, tensor in renamed.items())


def features_case(folder, name, seed, size, dtype, settings=None, registers=None, chunk=0, wrap=lambda tensors: tensors):
    generator = torch.Generator().manual_seed(seed)
    model = make_vision.build({**NARROW, **(settings or {})}, generator, registers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))  # so that the reference has the file's values exactly
    if registers is None:
        model.embeddings.interpolate_pos_encoding = make_vision.hub_positions.__get__(model.embeddings)
    pixels = make_vision.float32_values((2, 3, *size), 1.0, generator)
    with torch.no_grad():
        features = model(pixel_values=pixels).last_hidden_state
    torch.save(wrap(facebook_tensors(model, dtype, chunk)), folder / f"facebook_{name}.pth")
    expected = {"pixel_values": pixels.float(), "last_hidden_state": features.float().contiguous()}
    path = folder / f"facebook_{name}.safetensors"
    save_file(expected, path)
    path.chmod(0o644)  # as the others are; the writer makes it private


def hugging_face_folder(folder, seed):
    """A folder as older versions of transformers saved it: legacy names, a wrapper's prefix, one file and shards."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    model = make_vision.build({"num_hidden_layers": 1}, generator)
    tensors = make_vision.legacy_tensors({key: value.detach().float() for key, value in model.named_parameters()})
    tensors = {f"dinov2.{name}": tensor for name, tensor in tensors.items()}
    pixels = make_vision.float32_values((2, 3, 16, 12), 1.0, generator)
    with torch.no_grad():
        features = model(pixel_values=pixels).last_hidden_state
    model.config.save_pretrained(folder)
    torch.save({**tensors, "classifier.weight": torch.ones(2, 32)}, folder / "pytorch_model.bin")
    names = list(tensors)
    shards = {"shard-1.bin": names[::2], "shard-2.bin": names[1::2]}
    for file, held in shards.items():
        torch.save({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "shards.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")
    path = folder / "expected.safetensors"
    save_file({"pixel_values": pixels.float(), "last_hidden_state": features.float().contiguous()}, path)
    path.chmod(0o644)


def llama_folder(folder, seed):
    """A LlamaForCausalLM as an older transformers saved it: torch.save's file, the tied head and rotary tables in it."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                         max_position_embeddings=16, tie_word_embeddings=True, pad_token_id=0, bos_token_id=2,
                         eos_token_id=3)
    model = LlamaForCausalLM(config).eval()
    tensors = {name: tensor.half().float() for name, tensor in model.state_dict().items()}
    model.load_state_dict(tensors)
    tables = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    config.save_pretrained(folder)
    torch.save({**{name: tensor.half() for name, tensor in tensors.items()}, **tables}, folder / "pytorch_model.bin")
    ids = torch.tensor([[2, 5, 7, 11, 13, 17, 3], [2, 6, 8, 9, 20, 21, 3]])
    with torch.no_grad():
        logits = model.double()(input_ids=ids).logits
    path = folder / "expected.safetensors"
    save_file({"input_ids": ids, "logits": logits.float().contiguous()}, path)
    path.chmod(0o644)


def as_trained(tensors):
    """As facebook's training leaves its teacher: the backbone beside the heads, and numbers beside both."""
    beside = {"dino_head.last_layer.weight": torch.ones(2, 3), "ibot_head.last_layer.weight": torch.ones(2, 3)}
    return {"teacher": {**{f"backbone.{name}": tensor for name, tensor in tensors.items()}, **beside}, "iteration": 7}


def value_files(folder):
    """The kinds of values; tests/core/pytorch_file_test.cpp says the numbers again."""
    numbers = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    module = torch.nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.copy_(torch.arange(6.0).reshape(2, 3))
        module.bias.copy_(torch.tensor([10.0, 20.0]))
    torch.save(module.state_dict(), folder / "state_dict.pth")  # an OrderedDict with _metadata
    torch.save(dict(module.named_parameters()), folder / "parameters.pth")
    views = {
        "whole": numbers,
        "transposed": numbers.t(),
        "column": numbers[:, 2],
        "row": numbers[3],
        "every_other": numbers[1::2, ::3],
        "scalar": numbers[2, 5],
        "empty": torch.empty(2, 0, 3),
    }
    torch.save(views, folder / "views.pth")
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
    dtypes += [torch.int8, torch.uint8, torch.complex64, torch.uint16, torch.uint32, torch.uint64]
    dtypes += [torch.float8_e4m3fn, torch.float8_e5m2]
    values = {str(dtype).removeprefix("torch."): torch.tensor([0.0, 1.0, 3.0]).to(dtype) for dtype in dtypes}
    values["bool"] = torch.tensor([False, True, True])
    torch.save(values, folder / "values.pth")
    nested = {"epoch": 3, "lr": 1e-3, "args": {"name": "x", "list": [1, None, True, (2,)]}, "loss": torch.tensor(0.5)}
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    torch.save({**nested, "model": module.state_dict(), "optimizer": optimizer}, folder / "nested.pth")
    torch.save({"model": module.state_dict(), "teacher": module.state_dict()}, folder / "ambiguous.pth")
    torch.save(module, folder / "whole_module.pth")
    torch.save(module.state_dict(), folder / "protocol4.pth", pickle_protocol=4)
    torch.save({"a": torch.tensor([1 + 2j]).conj()}, folder / "conjugated.pth")
    torch.save({"a": torch.ones(1).expand(5)}, folder / "expanded.pth")


def main():
    golden = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path("tests/golden")
    folder = golden / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    value_files(folder)
    hugging_face_folder(folder / "hugging_face", 4)
    llama_folder(folder / "llama", 5)
    features_case(folder, "plain", 1, (10, 6), torch.float16)
    features_case(folder, "registers_chunked", 2, (10, 12), torch.float16, registers=4, chunk=1)
    features_case(folder, "swiglu_teacher", 3, (8, 8), torch.bfloat16, SWIGLU, wrap=as_trained)


if __name__ == "__main__":
    main()
