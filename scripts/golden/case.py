"""Writes golden cases (docs/golden-cases.md): one safetensors file a case."""

import json
import pathlib

import torch
from safetensors.torch import save_file

_NO_TENSORS: dict = {}
_ATOL = 1e-5  # the harness's default
_NOISE = 1e-12  # what float64 leaves of a zero, as of the gradient of a key's bias


def _largest(tensor):
    return tensor.abs().max().item() if tensor.numel() else 0


def write_case(
    path,
    op,
    params=None,
    inputs=_NO_TENSORS,
    weights=_NO_TENSORS,
    adapter=_NO_TENSORS,
    outputs=_NO_TENSORS,
    grads=_NO_TENSORS,
    cotangents=_NO_TENSORS,
    rtol=None,
    atol=None,
):
    """Writes one case.

    Tensors are given without their prefix, except that the keys of `grads` are full names: "in.x", "w.KEY",
    "adapter.KEY". `rtol` and `atol` of None leave the harness's defaults (1e-4, 1e-5). Values are stored in the dtype
    they come in: expected values computed in float64 should be cast to float32 by the caller.
    """
    prefixed = {
        "in.": inputs,
        "w.": weights,
        "adapter.": adapter,
        "out.": outputs,
        "grad.": grads,
        "cotangent.": cotangents,
    }
    tensors = {
        prefix + name: torch.as_tensor(tensor).detach().cpu().contiguous().clone()
        for prefix, group in prefixed.items()
        for name, tensor in group.items()
    }
    _check(path, outputs, grads, cotangents, set(tensors))
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: {name} is not finite")
        if name.startswith(("out.", "grad.")) and _NOISE < _largest(tensor) < 10 * (_ATOL if atol is None else atol):
            print(f"{path}: note: {name} is so small ({_largest(tensor):.1e}) that the tolerance hides most mistakes")

    metadata = {"op": op, "params": json.dumps(params or {}, sort_keys=True)}
    if rtol is not None:
        metadata["rtol"] = repr(float(rtol))
    if atol is not None:
        metadata["atol"] = repr(float(atol))

    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(path), metadata=metadata)
    _sort_metadata(path)
    print(f"{path}: {op}, {len(tensors)} tensors, {path.stat().st_size / 1024:.0f} KiB")


def _sort_metadata(path):
    """The writer's order of the metadata is random; sorted, the same case is the same bytes."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def _check(path, outputs, grads, cotangents, names):
    """The mistakes that would make a case prove less than it seems to."""
    if not outputs:
        raise ValueError(f"{path}: a case needs outputs")
    if grads and "loss" not in outputs and not cotangents:
        raise ValueError(f"{path}: gradients need out.loss or cotangents")
    if cotangents and "loss" in outputs:
        raise ValueError(f"{path}: with out.loss, cotangents would be ignored")
    for name in cotangents:
        if name not in outputs:
            raise ValueError(f"{path}: cotangent.{name} has no out.{name}")
    for name in grads:
        if name not in names:
            raise ValueError(f"{path}: grad.{name} is of no tensor in the case")
