"""Adapters that peft makes, of every kind and on every class of DINOv2, against what Tessera makes of them.

    python scripts/golden/check_adapters.py [BUILD_FOLDER] [NAME...]        (default: build/cpu-release, all)

Each adapter is made by peft on a small random model, with random values, and saved by peft. `tessera features` has to
give what peft computes: from the folder as it is, after `tessera adapter convert` (--backbone-only where the class has a
head) and once more into the old naming; peft has to give it from the converted folder. An adapter with a part of its own
in the head has to be refused before, and what isn't supported refused with the field's name. Ends with 1 where features
differ by more than 1e-4, or something is refused or taken that shouldn't be.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import (AutoImageProcessor, AutoModel, BitImageProcessor, Dinov2Config, Dinov2ForImageClassification,
                          Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersForImageClassification,
                          Dinov2WithRegistersModel)
from transformers.utils import logging

from check_against_python import TOLERANCE, random_images
from PIL import Image

SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}
CLASSES = {
    "plain": (Dinov2Model, Dinov2Config, {}),
    "registers": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig, {}),
    "swiglu": (Dinov2Model, Dinov2Config, {"use_swiglu_ffn": True}),
    "classifier": (Dinov2ForImageClassification, Dinov2Config, {"num_labels": 3}),
    "registers_classifier": (Dinov2WithRegistersForImageClassification, Dinov2WithRegistersConfig, {"num_labels": 3}),
    "swiglu_classifier": (Dinov2ForImageClassification, Dinov2Config, {"num_labels": 3, "use_swiglu_ffn": True}),
}
ALL, QUERY, QUERY_VALUE, QUERY_FC1 = "all-linear", ["q_proj"], ["q_proj", "v_proj"], ["q_proj", "fc1"]
HEAD = {"modules_to_save": ["classifier"]}
CASES = {
    "plain": {
        "query_value": {"target_modules": QUERY_VALUE},
        "all_linear": {"target_modules": ALL},
        "expression": {"target_modules": r".*layer\.[02]\.(attention\.(q|v)_proj|mlp\.fc1)"},
        "patterns": {"target_modules": ALL, "rank_pattern": {"fc1": 2, r"layer\.1\.attention\.q_proj": 6},
                     "alpha_pattern": {"fc2": 3, "^encoder.layer.2.attention.k_proj": 7}},
        "rank_64_rslora": {"target_modules": QUERY_FC1, "rank_pattern": {"fc1": 64}, "use_rslora": True},
        "exclude_list": {"target_modules": ALL, "exclude_modules": ["fc2", "k_proj"]},
        "exclude_expression": {"target_modules": ALL, "exclude_modules": r".*layer\.0\..*"},
        "layers": {"target_modules": QUERY_FC1, "layers_to_transform": [1, 2]},
        "layer_pattern": {"target_modules": QUERY_FC1, "layers_to_transform": 1, "layers_pattern": "layer"},
        "dora": {"target_modules": ["q_proj", "v_proj", "fc2"], "use_dora": True},
        "dora_biases_rslora": {"target_modules": ALL, "use_dora": True, "bias": "all", "use_rslora": True},
        "bias_all": {"target_modules": QUERY_FC1, "bias": "all"},
        "bias_lora_only": {"target_modules": QUERY_FC1, "bias": "lora_only"},
        "biases_saved": {"target_modules": QUERY_FC1, "bias": "all", "modules_to_save": ["layernorm", "norm1"]},
        "saved_by_letters": {"target_modules": QUERY, "modules_to_save": ["norm"]},
        "saved_around": {"target_modules": QUERY, "modules_to_save": ["mlp"]},
        "saved_layer": {"target_modules": QUERY, "modules_to_save": ["encoder.layer.2"]},
        "pissa": {"target_modules": QUERY_VALUE, "init_lora_weights": "pissa"},
        "pissa_dora": {"target_modules": QUERY, "init_lora_weights": "pissa", "use_dora": True},
        "olora": {"target_modules": QUERY_FC1, "init_lora_weights": "olora"},
        "olora_biases_saved": {"target_modules": QUERY, "init_lora_weights": "olora", "modules_to_save": ["layernorm"],
                               "bias": "all"},
        "gaussian": {"target_modules": QUERY, "init_lora_weights": "gaussian"},
        "orthogonal": {"target_modules": QUERY, "init_lora_weights": "orthogonal"},
        "dropout": {"target_modules": QUERY_FC1, "lora_dropout": 0.5},
        # What the model's own names don't say means nothing, in any list or expression.
        "other_naming_alpha": {"target_modules": QUERY_VALUE, "alpha_pattern": {"query": 64}},
        "other_naming_rank": {"target_modules": QUERY_VALUE, "rank_pattern": {"query": 8}},
        "other_naming_exclude": {"target_modules": [*QUERY_VALUE, "fc1"], "exclude_modules": ["query"]},
        "other_naming_target": {"target_modules": ["q_proj", "value", "qkv"]},
        "other_naming_expression": {"target_modules": ".*(q_proj|value)"},
        "other_class_alpha": {"target_modules": QUERY_FC1, "alpha_pattern": {"dinov2.encoder.layer.0.mlp.fc1": 64}},
    },
    "registers": {
        "all_linear": {"target_modules": ALL},
        "bias_all": {"target_modules": QUERY_VALUE, "bias": "all"},
        "saved": {"target_modules": ["k_proj"], "modules_to_save": ["layernorm", "layer_scale1"]},
    },
    "swiglu": {
        "all_linear": {"target_modules": ALL},
        "dora_bias_all": {"target_modules": ALL, "use_dora": True, "bias": "all"},
        "one_half": {"target_modules": ["gate_proj"], "rank_pattern": {"layer.1.mlp.gate_proj": 2}},
        "pissa": {"target_modules": ["gate_proj", "up_proj", "down_proj"], "init_lora_weights": "pissa"},
        "saved_half": {"target_modules": QUERY, "modules_to_save": ["gate_proj"]},
    },
    "classifier": {
        "saved": {"target_modules": QUERY_VALUE, **HEAD},
        "no_head": {"target_modules": QUERY_VALUE},
        "adapted": {"target_modules": ALL},
        "all_linear_saved": {"target_modules": ALL, **HEAD},
        "expression": {"target_modules": r"dinov2\.encoder\.layer\.[12]\.mlp\.fc1", **HEAD},
        "expression_adapted": {"target_modules": r"(dinov2\.encoder\.layer\.[12]\.mlp\.fc1|classifier)"},
        "patterns": {"target_modules": ALL, "rank_pattern": {"dinov2.encoder.layer.0.mlp.fc1": 7, "classifier": 2},
                     "alpha_pattern": {r"^dinov2\.encoder\.layer\.1\.attention\.q_proj": 5}},
        "plain_alpha": {"target_modules": QUERY_FC1, "alpha_pattern": {r"^encoder\.layer\.2\.mlp\.fc1": 64}},
        "exclude": {"target_modules": ALL, "exclude_modules": ["dinov2.encoder.layer.0.mlp.fc1", "classifier"]},
        "layers": {"target_modules": QUERY_FC1, "layers_to_transform": [1], **HEAD},
        "bias_all": {"target_modules": QUERY, "bias": "all", **HEAD},
        "bias_all_unsaved": {"target_modules": QUERY, "bias": "all"},
        "bias_lora_only": {"target_modules": ALL, "bias": "lora_only"},
        "dora_biases_saved": {"target_modules": ALL, "use_dora": True, "bias": "all",
                              "modules_to_save": ["classifier", "layernorm"]},
        "pissa": {"target_modules": QUERY_VALUE, "init_lora_weights": "pissa", **HEAD},
        "saved_path": {"target_modules": QUERY, "modules_to_save": ["dinov2.layernorm", "classifier"]},
    },
    "registers_classifier": {
        "saved": {"target_modules": QUERY_VALUE, **HEAD},
        "expression": {"target_modules": r"dinov2_with_registers\.encoder.*(q_proj|fc2)", **HEAD},
        "dora_adapted": {"target_modules": ALL, "use_dora": True, "bias": "lora_only", "use_rslora": True},
    },
    "swiglu_classifier": {"saved": {"target_modules": ALL, **HEAD}},
}
REFUSED = {
    "init_lora_weights": {"target_modules": QUERY, "init_lora_weights": "pissa_niter_4"},
    "lora_bias": {"target_modules": QUERY, "lora_bias": True},
    "target_parameters": {"target_modules": QUERY, "target_parameters": ["embeddings.mask_token"]},
    "ensure_weight_tying": {"target_modules": QUERY, "ensure_weight_tying": True},
    "modules_to_save": {"target_modules": QUERY, "modules_to_save": ["embeddings"]},
    "projection.lora_A": {"target_modules": [*QUERY, "projection"]},  # a convolution
}

REFUSED_FOR_ITS_HEAD = "refused for its head"


def model_of(kind):
    model_class, config_class, settings = CLASSES[kind]
    torch.manual_seed(3)
    model = model_class(config_class(**SIZES, **settings))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lambda1" in name or ("norm" in name and name.endswith("weight")):
                value.uniform_(0.5, 1.5)
            else:
                value.normal_(0, 0.1 if value.dim() < 3 else 0.3)
    return model.eval()


def quietly(call, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments, **options)


def made_by_peft(model, lora, folder):
    torch.manual_seed(11)
    adapted = quietly(get_peft_model, model, LoraConfig(r=4, **lora))
    with torch.no_grad():
        for value in adapted.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value), alpha=0.05)
    quietly(adapted.save_pretrained, folder)
    return adapted.eval()


class Check:
    def __init__(self, build, place):
        self.tool = build / "bin" / "tessera"
        self.place = place
        self.images = random_images(place, 2)
        self.failed = []

    def tessera(self, *words):
        return subprocess.run([self.tool, *map(str, words)], capture_output=True, text=True, check=False)

    def features(self, model, adapter):
        """What `tessera features` gives, or its error."""
        output = self.place / "features.safetensors"
        ran = self.tessera("features", "--model", model, "--adapter", adapter, "--what", "tokens", "--output", output,
                           "--images", *self.images)
        return load_file(output)["tokens"] if ran.returncode == 0 else ran.stderr.strip()

    def backbone(self, kind):
        folder = self.place / kind
        if not folder.exists():
            model_of(kind).base_model.save_pretrained(folder)
            BitImageProcessor(size={"shortest_edge": 80}, crop_size={"height": 70, "width": 70}).save_pretrained(folder)
        return folder

    def pixels(self, folder):
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        return processor([Image.open(path) for path in self.images], return_tensors="pt")["pixel_values"]

    def case(self, kind, name, lora):
        title = f"{kind}: {name}"
        has_head = "classifier" in kind
        backbone, adapter = self.backbone(kind), self.place / f"{kind}-{name}"
        model = model_of(kind)
        made_by_peft(model, lora, adapter)
        pixels = self.pixels(backbone)
        with torch.no_grad():
            expected = model.base_model(pixel_values=pixels).last_hidden_state
        results = {}
        reads_head = any("classifier" in key for key in load_file(adapter / "adapter_model.safetensors"))
        as_it_is = self.features(backbone, adapter)
        if reads_head:
            results["as it is"] = REFUSED_FOR_ITS_HEAD if "--backbone-only" in str(as_it_is) else as_it_is
        else:
            results["as it is"] = as_it_is
        converted, legacy = self.place / f"{kind}-{name}-converted", self.place / f"{kind}-{name}-legacy"
        self.tessera("adapter", "convert", adapter, "--output", converted, *(["--backbone-only"] if has_head else []))
        results["converted"] = self.features(backbone, converted)
        loaded = quietly(PeftModel.from_pretrained, AutoModel.from_pretrained(backbone), converted).eval()
        with torch.no_grad():
            results["converted, in peft"] = loaded(pixel_values=pixels).last_hidden_state
        if "swiglu" not in kind:  # whose two halves have no names there
            self.tessera("adapter", "convert", converted, "--naming", "legacy", "--output", legacy)
            results["old names"] = self.features(backbone, legacy)
        differences = {what: (found - expected).abs().max().item() if torch.is_tensor(found) else found
                       for what, found in results.items()}
        print(f"{title}: " + ", ".join(f"{what} {value:.1e}" if isinstance(value, float) else f"{what} {value}"
                                       for what, value in differences.items()), flush=True)
        if not all(value == REFUSED_FOR_ITS_HEAD or isinstance(value, float) and value <= TOLERANCE
                   for value in differences.values()):
            self.failed.append(title)

    def refusal(self, field, lora):
        adapter = self.place / f"refused-{field}"
        made_by_peft(model_of("plain"), lora, adapter)
        found = self.features(self.backbone("plain"), adapter)
        refused = not torch.is_tensor(found) and field in found
        print(f"refused, {field}: {'yes' if refused else found}", flush=True)
        if not refused:
            self.failed.append(f"refused: {field}")


def main():
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        print(__doc__)
        return
    build = pathlib.Path(words.pop(0) if words and pathlib.Path(words[0]).is_dir() else "build/cpu-release")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        check = Check(build, pathlib.Path(place))
        for kind, cases in CASES.items():
            for name, lora in cases.items():
                if not words or name in words:
                    check.case(kind, name, lora)
        for field, lora in REFUSED.items():
            if not words or field in words:
                check.refusal(field, lora)
        if check.failed:
            sys.exit(f"the two sides differ: {'; '.join(check.failed)}")


if __name__ == "__main__":
    main()
