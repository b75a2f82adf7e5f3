"""Golden cases of FIBER's fusion (gated_cross_attention, fusion_level): float64 transcriptions, head by head and pair by
pair, rounded to float32.

The order of a level is that of FIBER's code: both sides read what the other was before the level; self-attention,
then cross-attention through the gate, then the feed-forward network. Around it stand the pre-norm residuals of a Llama
layer (text) and of a plain transformer block (image).

    python scripts/golden/make_fusion.py [FOLDER]        (default: tests/golden)
"""

import pathlib
import sys

import torch
import torch.nn.functional as F

from case import write_case

IMAGE, TEXT, CODE = 12, 16, 10  # widths of image tokens, text states and the memory's read-out
TOKENS, PATCHES = 6, 5
LENGTHS = (TOKENS, 3, 1)


def linear(weights, name, x):
    bias = weights.get(f"{name}.bias")
    return x @ weights[f"{name}.weight"].T + (0 if bias is None else bias)


def layer_norm(weights, name, x):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / (variance + 1e-5) ** 0.5 * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def rms_norm(weights, name, x):
    return x / ((x**2).mean(-1, keepdim=True) + 1e-5) ** 0.5 * weights[f"{name}.weight"]


def attend(query, key, value, heads, readable):
    """One sequence: [T, C], [S, C], [S, C]; readable [T, S] bool."""
    size = query.shape[-1] // heads
    parts = []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        scores = query[:, own] @ key[:, own].T / size**0.5
        parts.append(torch.softmax(scores.masked_fill(~readable, float("-inf")), -1) @ value[:, own])
    return torch.cat(parts, -1)


def under(weights, prefix):
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}


def gated_cross_attention(weights, hidden, context, readable, heads):
    """One sequence [T, C] reads another [S, D]; readable [S] bool."""
    normed = layer_norm(weights, "context_norm", context)
    key, value = linear(weights, "key_value", normed).chunk(2, -1)
    query = linear(weights, "query", layer_norm(weights, "norm", hidden))
    read = attend(query, key, value, heads, readable[None].expand(len(hidden), -1))
    return hidden + weights["gate"] * linear(weights, "output", read)


def image_block(weights, hidden, text, text_readable, heads, cross_heads):
    """One image [N, D]; text None: unfused."""
    query, key, value = linear(weights, "query_key_value", layer_norm(weights, "attention_norm", hidden)).chunk(3, -1)
    everything = torch.ones(len(hidden), len(hidden), dtype=torch.bool)
    hidden = hidden + linear(weights, "attention_output", attend(query, key, value, heads, everything))
    if text is not None:
        cross = under(weights, "cross_attention.")
        hidden = gated_cross_attention(cross, hidden, text, text_readable, cross_heads)
    inner = linear(weights, "up", layer_norm(weights, "feed_forward_norm", hidden))
    return hidden + linear(weights, "down", F.gelu(inner))


def rotated(x, heads):
    """Rotary positions, the two halves of a head paired, as Hugging Face's Llama has them. [T, C]"""
    length, width = x.shape
    half = width // heads // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    first, second = x.reshape(length, heads, 2, half).unbind(2)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], 2).reshape(length, width)


def text_layer(weights, hidden, context, context_readable, cross, readable, heads, cross_heads):
    """One text [T, C] that reads one context [S, D]; cross None: unfused."""
    normed = rms_norm(weights, "input_layernorm", hidden)
    query, key, value = (linear(weights, f"self_attn.{name}_proj", normed) for name in "qkv")
    read = attend(rotated(query, heads), rotated(key, heads), value, heads, readable)
    hidden = hidden + linear(weights, "self_attn.o_proj", read)
    if cross is not None:
        hidden = gated_cross_attention(cross, hidden, context, context_readable, cross_heads)
    normed = rms_norm(weights, "post_attention_layernorm", hidden)
    inner = F.silu(linear(weights, "mlp.gate_proj", normed)) * linear(weights, "mlp.up_proj", normed)
    return hidden + linear(weights, "mlp.down_proj", inner)


def level_case_outputs(weights, inputs, params):
    """The whole tower over each pair by itself."""
    config, mode, levels = params["config"], params["mode"], params["levels"]
    cross_heads = params["cross_attention_heads"]
    images, texts = [], []
    for row in range(len(inputs["text"])):
        image, text = inputs["image"][row], inputs["text"][row]
        mask = inputs["attention_mask"][row] == 1
        readable = mask[None].expand(len(text), -1)
        if mode == "caption":
            readable = torch.ones(len(text), len(text), dtype=torch.bool).tril()
        for level in range(levels):
            layer = under(weights, f"language.model.layers.{level}.")
            block = under(weights, f"image_blocks.{level}.")
            cross = under(weights, f"text_cross_attention.{level}.")
            context, context_readable = image, torch.ones(len(image), dtype=torch.bool)
            if mode == "caption" and "memory" in inputs:
                tokens = linear(weights, "memory_projection", inputs["memory"][row]).view(-1, IMAGE)
                sees = inputs["has_memory"][row : row + 1] == 1 if "has_memory" in inputs else torch.tensor([True])
                context = torch.cat([image, tokens])
                context_readable = torch.cat([context_readable, sees.expand(len(tokens))])
            before = text
            text = text_layer(
                layer,
                text,
                context,
                context_readable,
                None if mode == "unfused" else cross,
                readable,
                config["num_attention_heads"],
                cross_heads,
            )
            image = image_block(
                block, image, before if mode == "fused" else None, mask, params["image_attention_heads"], cross_heads
            )
        texts.append(rms_norm(under(weights, "language.model."), "norm", text) * mask[:, None])
        images.append(image)
    return {"image": torch.stack(images), "text": torch.stack(texts)}


class Values:
    """Made-up numbers at which every part matters: norms away from 1, attention away from uniform."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape):
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).float()

    def linear(self, name, inner, outer, bias=True):
        weights = {f"{name}.weight": self.normal(outer, inner) * (1.3 / inner**0.5)}
        return weights | ({f"{name}.bias": 0.3 * self.normal(outer)} if bias else {})

    def layer_norm(self, name, size):
        return {f"{name}.weight": 1 + 0.2 * self.normal(size), f"{name}.bias": 0.2 * self.normal(size)}

    def cross_attention(self, query_size, context_size, gate):
        return {
            **self.layer_norm("norm", query_size),
            **self.layer_norm("context_norm", context_size),
            **self.linear("query", query_size, query_size),
            **self.linear("key_value", context_size, 2 * query_size),
            **self.linear("output", query_size, query_size),
            "gate": torch.tensor([gate]),
        }

    def image_block(self, gate):
        cross = self.cross_attention(IMAGE, TEXT, gate)
        return {
            **self.layer_norm("attention_norm", IMAGE),
            **self.linear("query_key_value", IMAGE, 3 * IMAGE),
            **self.linear("attention_output", IMAGE, IMAGE),
            **{f"cross_attention.{key}": value for key, value in cross.items()},
            **self.layer_norm("feed_forward_norm", IMAGE),
            **self.linear("up", IMAGE, 2 * IMAGE),
            **self.linear("down", 2 * IMAGE, IMAGE),
        }

    def text_layer(self):
        inner = 24
        return {
            "input_layernorm.weight": 1 + 0.2 * self.normal(TEXT),
            **{k: v for name in "qkvo" for k, v in self.linear(f"self_attn.{name}_proj", TEXT, TEXT, False).items()},
            "post_attention_layernorm.weight": 1 + 0.2 * self.normal(TEXT),
            **self.linear("mlp.gate_proj", TEXT, inner, False),
            **self.linear("mlp.up_proj", TEXT, inner, False),
            **self.linear("mlp.down_proj", inner, TEXT, False),
        }

    def tower(self, image_gates, text_gates, read_tokens):
        weights = {"language.model.norm.weight": 1 + 0.2 * self.normal(TEXT)}
        for level, (image_gate, text_gate) in enumerate(zip(image_gates, text_gates, strict=True)):
            for prefix, part in (
                (f"image_blocks.{level}.", self.image_block(image_gate)),
                (f"text_cross_attention.{level}.", self.cross_attention(TEXT, IMAGE, text_gate)),
                (f"language.model.layers.{level}.", self.text_layer()),
            ):
                weights |= {prefix + key: value for key, value in part.items()}
        return weights | self.linear("memory_projection", CODE, read_tokens * IMAGE)


def padding(side):
    """[B, T], 1 for real tokens: a full row, one of three tokens, one of a single token."""
    mask = torch.arange(TOKENS)[None] < torch.tensor(LENGTHS)[:, None]
    return {"none": torch.ones_like(mask), "right": mask, "left": mask.flip(1)}[side].long()


def write(folder, name, op, params, inputs, weights, compute, values, outputs_kept):
    """`compute` maps float64 weights and inputs to outputs; every floating tensor gets its gradient."""
    leaves = {f"in.{key}": value.double().requires_grad_() for key, value in inputs.items() if value.is_floating_point()}
    leaves |= {f"w.{key}": value.double().requires_grad_() for key, value in weights.items()}
    wide_inputs = {key: leaves.get(f"in.{key}", value) for key, value in inputs.items()}
    outputs = compute({key: leaves[f"w.{key}"] for key in weights}, wide_inputs)
    outputs = {key: outputs[key] for key in outputs_kept}
    cotangents = {key: values.normal(*value.shape) for key, value in outputs.items()}
    sum((outputs[key] * cotangents[key].double()).sum() for key in outputs).backward()
    grads = {key: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for key, leaf in leaves.items()}
    write_case(
        folder / f"{op}_{name}.safetensors",
        op,
        params,
        inputs=inputs,
        weights=weights,
        outputs={key: value.detach().float() for key, value in outputs.items()},
        grads={key: value.float() for key, value in grads.items()},
        cotangents=cotangents,
    )


def cross_attention_case(folder, name, heads, gate, seed, side="none", context=PATCHES):
    values = Values(seed)
    weights = values.cross_attention(TEXT, IMAGE, gate)
    inputs = {"hidden_states": values.normal(3, 4, TEXT), "context": values.normal(3, context, IMAGE)}
    if side != "none":
        inputs["context_mask"] = padding(side)

    def compute(w, given):
        mask = given.get("context_mask", torch.ones(3, context)) == 1
        rows = zip(given["hidden_states"], given["context"], mask, strict=True)
        return {"hidden_states": torch.stack([gated_cross_attention(w, *row, heads) for row in rows])}

    write(folder, name, "gated_cross_attention", {"heads": heads}, inputs, weights, compute, values, ["hidden_states"])


def fusion_case(folder, name, mode, image_gates, text_gates, seed, side="none", memory=None, read_tokens=1):
    values = Values(seed)
    weights = values.tower(image_gates, text_gates, read_tokens)
    inputs = {
        "image": values.normal(3, 1 + PATCHES, IMAGE),
        "text": values.normal(3, TOKENS, TEXT),
        "attention_mask": padding(side),
    }
    if memory is not None:
        inputs["memory"] = values.normal(3, CODE)
    if memory == "some":
        inputs["has_memory"] = torch.tensor([1, 0, 1])
    levels = len(image_gates)
    params = {
        "mode": mode,
        "levels": levels,
        "image_attention_heads": 3,
        "image_mlp_ratio": 2,
        "cross_attention_heads": 2,
        "config": {
            "vocab_size": 8,
            "hidden_size": TEXT,
            "num_hidden_layers": levels,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "max_position_embeddings": 16,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
        },
    }
    kept = ["text"] if mode == "caption" else ["image", "text"]
    write(
        folder,
        name,
        "fusion_level",
        params,
        inputs,
        weights,
        lambda w, given: level_case_outputs(w, given, params),
        values,
        kept,
    )


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden")
    cross_attention_case(folder, "one_head", heads=1, gate=0.7, seed=1)
    cross_attention_case(folder, "heads", heads=4, gate=-0.6, seed=2)
    cross_attention_case(folder, "right_padded", heads=2, gate=0.9, seed=3, side="right", context=TOKENS)
    cross_attention_case(folder, "left_padded", heads=2, gate=-1.2, seed=4, side="left", context=TOKENS)
    cross_attention_case(folder, "closed_gate", heads=2, gate=0.0, seed=5, side="right", context=TOKENS)

    fusion_case(folder, "fused", "fused", [0.7, -0.5], [-0.8, 0.6], seed=6, side="right")
    fusion_case(folder, "fused_left_padded", "fused", [-0.9], [0.7], seed=7, side="left")
    fusion_case(folder, "fused_closed_gates", "fused", [0.0, 0.0], [0.0, 0.0], seed=8, side="right")
    fusion_case(folder, "unfused", "unfused", [0.7, -0.5], [-0.8, 0.6], seed=8, side="right")
    fusion_case(folder, "caption", "caption", [0.7, -0.5], [-0.8, 0.6], seed=9, side="right")
    fusion_case(folder, "caption_memory", "caption", [0.7, 0.5], [0.8, -0.6], seed=10, memory="all")
    fusion_case(folder, "caption_some_memory", "caption", [0.4], [0.9], seed=11, memory="some")
    fusion_case(folder, "caption_memory_tokens", "caption", [0.7, 0.5], [0.8, -0.6], 12, memory="some", read_tokens=3)


if __name__ == "__main__":
    main()
