"""Golden cases of the language ops (causal_lm, causal_lm_lora) from transformers 5.23.0 and peft 0.21.2.

The reference is LlamaForCausalLM in float32 with its eager attention. For bidirectional attention it gets a 4-D mask
that lets every token read every real token; the layers are transformers' own. The logits are multiplied by the
attention mask, because what stands at padding has no meaning.

    python scripts/golden/make_language.py [FOLDER]        (default: tests/golden)
"""

import json
import pathlib
import sys
import tempfile

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
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


def adapted(model, lora, generator):
    """A PEFT model, the configuration that it saves, and the adapter's parameters under the keys that it saves."""
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora)).eval()
    by_place = {value.data_ptr(): value for value in model.parameters()}
    parameters = {key: by_place[value.data_ptr()] for key, value in get_peft_model_state_dict(model).items()}
    with torch.no_grad():
        for key, value in parameters.items():
            noise = torch.randn(value.shape, generator=generator)
            value.mul_(1 + 0.2 * noise) if "magnitude" in key else value.copy_(0.2 * noise)
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        config = json.loads((pathlib.Path(place) / "adapter_config.json").read_text())
    if isinstance(config["target_modules"], list):  # made of a set, whose order would differ from run to run
        config["target_modules"] = sorted(config["target_modules"])
    return model, config, parameters


def make(folder, name, attention, side, seed, labels, lora=None, merged=False, **config):
    config = LlamaConfig(**{**SMALL, **config})
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    fill(model, generator)
    weights = {key: value.detach().clone() for key, value in model.named_parameters()}
    params = {"config": config.to_dict(), "attention": attention}
    adapter, adapter_values = {}, {}
    if lora:
        model, params["adapter_config"], adapter = adapted(model, lora, generator)
        adapter_values = {key: value.detach().clone() for key, value in adapter.items()}
    if merged:
        model, adapter = model.merge_and_unload().eval(), {}
        params["merged"] = True
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
        if not merged:
            result.loss.backward()
    else:
        cotangents["logits"] = torch.randn(result.logits.shape, generator=generator)
        (outputs["logits"] * cotangents["logits"]).sum().backward()

    op = "causal_lm_lora" if lora else "causal_lm"
    trained = {f"adapter.{key}": value for key, value in adapter.items()} if lora else {
        f"w.{key}": value for key, value in model.named_parameters()}
    write_case(
        folder / f"{op}_{name}.safetensors",
        op,
        params=params,
        inputs=inputs,
        weights=weights,
        adapter=adapter_values,
        outputs=outputs,
        grads={key: value.grad for key, value in trained.items()},
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
    query_value = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
    # Of all-linear, peft leaves the head out.
    all_linear = {"r": 2, "lora_alpha": 3, "use_rslora": True, "target_modules": "all-linear"}
    make(folder, "query_value", "causal", "right", 7, labels=True, lora=query_value)
    make(folder, "all_linear_untied", "bidirectional", "left", 8, labels=False, lora=all_linear,
         num_key_value_heads=2, tie_word_embeddings=False)
    make(folder, "dora", "causal", "left", 9, labels=True,
         lora={**query_value, "use_dora": True, "target_modules": ["k_proj", "o_proj", "gate_proj", "down_proj"]})
    make(folder, "patterns", "causal", "none", 10, labels=True, lora={
        **query_value, "target_modules": r".*layers\.1\.(self_attn|mlp)\.(q|up)_proj", "rank_pattern": {"up_proj": 5},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 4}})
    make(folder, "merged", "causal", "right", 11, labels=True, lora=all_linear, merged=True)


if __name__ == "__main__":
    main()
