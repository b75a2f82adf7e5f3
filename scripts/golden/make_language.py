"""Golden cases of the language ops (causal_lm) from transformers 5.23.0.

The reference is LlamaForCausalLM in float32 with its eager attention. For bidirectional attention it gets a 4-D mask
that lets every token read every real token; the layers are transformers' own. The logits are multiplied by the
attention mask, because what stands at padding has no meaning.

    python scripts/golden/make_language.py [FOLDER]        (default: tests/golden)
"""

import pathlib
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from case import write_case

BATCH, TOKENS = 3, 9
SMALL = {
    "vocab_size": 30,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "attn_implementation": "eager",
}


def fill(model, generator):
    """Values at which every part matters: norms away from 1, attention away from uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.25 * noise)


def padding(side):
    """[B, T], 1 for real tokens: a full row, one of five tokens, one of two."""
    lengths = torch.tensor([TOKENS, 5, 2])
    mask = torch.arange(TOKENS)[None] < lengths[:, None]
    return {"none": torch.ones_like(mask), "right": mask, "left": mask.flip(1)}[side].long()


def every_token_reads_every_real_one(mask):
    """[B, T] -> the additive [B, 1, T, T] that transformers passes on to its layers as it is."""
    blocked = (mask == 0)[:, None, None, :].expand(-1, 1, TOKENS, -1)
    return torch.zeros(blocked.shape).masked_fill(blocked, torch.finfo(torch.float32).min)


def next_token_labels(input_ids, mask):
    """The input, without padding and without what only padding stands before: no real token predicts that."""
    before = torch.nn.functional.pad(mask[:, :-1], (1, 0))
    return torch.where((mask == 1) & (before == 1), input_ids, torch.full_like(input_ids, -100))


def make(folder, name, attention, side, seed, labels, **config):
    config = LlamaConfig(**{**SMALL, **config})
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    fill(model, generator)
    mask = padding(side)
    input_ids = torch.randint(5, config.vocab_size, (BATCH, TOKENS), generator=generator)
    input_ids = torch.where(mask == 1, input_ids, torch.zeros_like(input_ids))
    inputs = {"input_ids": input_ids, "attention_mask": mask}

    reference_mask = mask if attention == "causal" else every_token_reads_every_real_one(mask)
    given = {"labels": next_token_labels(input_ids, mask)} if labels else {}
    result = model(input_ids=input_ids, attention_mask=reference_mask, use_cache=False, **given)
    outputs = {"logits": result.logits * mask[:, :, None]}
    cotangents = {}
    if labels:
        inputs.update(given)
        outputs["loss"] = result.loss
        result.loss.backward()
    else:
        cotangents["logits"] = torch.randn(result.logits.shape, generator=generator)
        (outputs["logits"] * cotangents["logits"]).sum().backward()

    parameters = dict(model.named_parameters())
    write_case(
        folder / f"causal_lm_{name}.safetensors",
        "causal_lm",
        params={"config": config.to_dict(), "attention": attention},
        inputs=inputs,
        weights=parameters,
        outputs=outputs,
        grads={f"w.{key}": parameter.grad for key, parameter in parameters.items()},
        cotangents=cotangents,
    )


def main():
    default = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    make(folder, "right_padded", "causal", "right", 1, labels=True)
    make(folder, "rope_theta", "causal", "none", 2, labels=False, rope_parameters=rope)
    make(folder, "left_padded_grouped_untied", "causal", "left", 3, labels=True, num_key_value_heads=2,
         tie_word_embeddings=False)
    make(folder, "bidirectional_right_padded", "bidirectional", "right", 4, labels=False)
    make(folder, "bidirectional_left_padded", "bidirectional", "left", 5, labels=True, num_key_value_heads=1)
    make(folder, "bidirectional_untied", "bidirectional", "none", 6, labels=True, tie_word_embeddings=False)


if __name__ == "__main__":
    main()
