"""The model of the training step in PyTorch, as one would write it in Python: Hugging Face's Dinov2Model with PEFT's
adapters, Hugging Face's Llama layers for the text, plain nn modules for what joins them.

Modules of our own carry Tessera's parameter names, so that its weights load by name.
"""

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaModel

MINUS_INFINITY = float("-inf")


def split_heads(x, heads):
    """[B, T, C] -> [B, heads, T, C / heads]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x):
    return x.transpose(1, 2).flatten(2)


def unit_length(x):
    return F.normalize(x.float(), dim=-1, eps=1e-6)


def masked_mean(hidden, mask):
    weights = mask.to(hidden.dtype)
    return torch.einsum("btc,bt->bc", hidden, weights) / weights.sum(1, keepdim=True).clamp_min(1)


def pooled_image(tokens):
    return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], -1)


class GatedCrossAttention(nn.Module):
    def __init__(self, query_size, context_size, heads):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(query_size)
        self.context_norm = nn.LayerNorm(context_size)
        self.query = nn.Linear(query_size, query_size)
        self.key_value = nn.Linear(context_size, 2 * query_size)
        self.output = nn.Linear(query_size, query_size)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, hidden, context, mask=None):
        """mask: [B, S] bool, what may be read, or None"""
        query = split_heads(self.query(self.norm(hidden)), self.heads)
        key, value = self.key_value(self.context_norm(context)).chunk(2, -1)
        if mask is not None:
            mask = mask[:, None, None, :]
        read = F.scaled_dot_product_attention(query, split_heads(key, self.heads), split_heads(value, self.heads), mask)
        return hidden + self.gate * self.output(join_heads(read))


class ImageBlock(nn.Module):
    def __init__(self, size, text_size, heads, mlp_ratio, cross_heads):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(size)
        self.query_key_value = nn.Linear(size, 3 * size)
        self.attention_output = nn.Linear(size, size)
        self.cross_attention = GatedCrossAttention(size, text_size, cross_heads)
        self.feed_forward_norm = nn.LayerNorm(size)
        self.up = nn.Linear(size, mlp_ratio * size)
        self.down = nn.Linear(mlp_ratio * size, size)

    def forward(self, hidden, text=None, text_mask=None):
        query, key, value = (
            split_heads(x, self.heads) for x in self.query_key_value(self.attention_norm(hidden)).chunk(3, -1))
        hidden = hidden + self.attention_output(join_heads(F.scaled_dot_product_attention(query, key, value)))
        if text is not None:
            hidden = self.cross_attention(hidden, text, text_mask)
        return hidden + self.down(F.gelu(self.up(self.feed_forward_norm(hidden))))


class Temperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_inverse = nn.Parameter(torch.zeros(()))

    def forward(self):
        return torch.exp(-self.log_inverse)


class Moments(nn.Module):
    """Standardises by moments kept in training."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x):
        return (x - self.mean) * (self.variance + 1e-5).rsqrt()


class PairCode(nn.Module):
    def __init__(self, image_size, text_size, code_size, hidden_size=64):
        super().__init__()
        self.image_moments, self.text_moments = Moments(image_size), Moments(text_size)
        self.embedding = nn.Linear(image_size + text_size, hidden_size)
        self.null_image = nn.Parameter(torch.zeros(image_size))
        self.null_text = nn.Parameter(torch.zeros(text_size))
        self.register_buffer("frequencies", torch.zeros(hidden_size, code_size))
        self.register_buffer("phases", torch.zeros(code_size))

    @torch.autocast("cpu", enabled=False)
    def forward(self, image, text, has_image=None, has_text=None):
        image = self.image_moments(image.detach().float())
        text = self.null_text.expand(image.size(0), -1) if text is None else self.text_moments(text.detach().float())
        if has_image is not None:
            image = torch.where(has_image[:, None], image, self.null_image)
        if has_text is not None:
            text = torch.where(has_text[:, None], text, self.null_text)
        embedding = self.embedding(torch.cat([image, text], -1))
        embedding = F.layer_norm(embedding, embedding.shape[-1:])
        waves = torch.cos(torch.addmm(self.phases, embedding, self.frequencies))
        return F.layer_norm(waves, waves.shape[-1:])


def gram_factor(rows, ridge):
    gram = rows @ rows.mT
    mean = gram.detach().diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return torch.linalg.cholesky(gram + ridge * mean * torch.eye(rows.size(-2), dtype=rows.dtype))


class EpisodicMemory(nn.Module):
    SMALLEST_RIDGE = 1e-10

    def __init__(self, slots, code_size, noise):
        super().__init__()
        self.noise = noise
        self.prior_mean = nn.Parameter(torch.zeros(slots, code_size))
        self.address_log_variance = nn.Parameter(torch.zeros(slots))

    def combine(self, targets, rows, ridge, own):
        factor = gram_factor(rows, ridge)
        if own is None:
            return torch.cholesky_solve(rows @ targets.mT, factor).mT
        inverse = torch.cholesky_inverse(factor)
        coefficients = targets @ rows.mT @ inverse
        blocks = torch.linalg.cholesky(inverse.masked_fill(~own, 0))
        shares = torch.cholesky_solve(coefficients.masked_fill(~own, 0).mT, blocks).mT
        return (coefficients - shares @ inverse).masked_fill(own, 0)

    def forward(self, written, queries, own=None):
        """[N, E, C], [N, Q, C] -> codes [N, Q, C], KL [N, Q]; own: [N, E, E] bool, the items a query may not read"""
        sigma = self.noise if self.training else 0.0
        ridge = max(sigma * sigma, self.SMALLEST_RIDGE)

        def noisy(x):
            return x + sigma * torch.randn_like(x) if sigma > 0 else x

        items, cues = noisy(written.double()), noisy(queries.double())
        reference = self.prior_mean.double()
        log_variance = self.address_log_variance.double()
        right = reference @ noisy(items).flatten(0, 1).mT
        addresses_of_items = torch.cholesky_solve(right, gram_factor(reference, self.SMALLEST_RIDGE)).mT
        addresses_of_items = addresses_of_items.unflatten(0, written.shape[:2])

        coefficients = self.combine(cues, items, ridge, own)
        addresses = coefficients @ addresses_of_items
        codes = coefficients @ items
        if sigma > 0:
            spread = torch.randn_like(addresses) * torch.exp(0.5 * log_variance)
            codes = codes + self.combine(spread, addresses_of_items, ridge, own) @ items
        kl = 0.5 * (log_variance.exp() + addresses.square() - 1 - log_variance).sum(-1)
        return noisy(codes).float(), kl.float()


class Fusion(nn.Module):
    def __init__(self, config, image_size, text_size, memory):
        super().__init__()
        levels = range(config["levels"])
        heads, cross_heads = config["image_attention_heads"], config["cross_attention_heads"]
        self.image_blocks = nn.ModuleList(
            ImageBlock(image_size, text_size, heads, config["image_mlp_ratio"], cross_heads) for _ in levels)
        self.text_cross_attention = nn.ModuleList(
            GatedCrossAttention(text_size, image_size, cross_heads) for _ in levels)
        self.memory_projection = nn.Linear(memory["code_size"], memory["read_tokens"] * image_size)


class TwoLinears(nn.Module):
    """Heads of one Linear a side."""

    def __init__(self, names_and_sizes):
        super().__init__()
        for name, (inputs, outputs) in names_and_sizes.items():
            self.add_module(name, nn.Linear(inputs, outputs))


class Stage1Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.vision = self.make_vision(config)
        image_size, text_size = config["compressor"]["output_size"], config["language"]["hidden_size"]
        code_size, fusion = config["memory"]["code_size"], config["fusion"]
        hidden_size = config["compressor"]["hidden_size"]
        self.compressor = nn.Sequential(
            nn.Linear(config["vision"]["architecture"]["hidden_size"], hidden_size), nn.ReLU(),
            nn.Dropout(config["compressor"]["dropout"]), nn.Linear(hidden_size, image_size), nn.LayerNorm(image_size))
        self.language = self.make_language(config["language"])
        self.read_tokens = config["memory"]["read_tokens"]
        self.fusion = Fusion(fusion, image_size, text_size, config["memory"])
        self.poolers = TwoLinears({"image_projection": (2 * image_size, fusion["embedding_size"]),
                                   "text_projection": (text_size, fusion["embedding_size"])})
        self.token_projections = TwoLinears({"image_projection": (image_size, fusion["token_size"]),
                                             "text_projection": (text_size, fusion["token_size"])})
        self.match_head = TwoLinears({"image_pooler": (2 * image_size, image_size),
                                      "text_pooler": (2 * text_size, text_size),
                                      "classifier": (image_size + text_size, 2)})
        self.pair_code = PairCode(2 * image_size, text_size, code_size)
        self.memory = EpisodicMemory(config["memory"]["slots"], code_size, config["memory"]["noise"])
        self.itc_temperature, self.maxsim_temperature = Temperature(), Temperature()
        self.register_buffer("pixel_scale", torch.zeros(1, 3, 1, 1))
        self.register_buffer("pixel_offset", torch.zeros(1, 3, 1, 1))
        self.first_layer = config["language"]["num_hidden_layers"] - fusion["levels"]

    @staticmethod
    def make_vision(config):
        architecture = config["vision"]["architecture"]
        if architecture["num_register_tokens"] != 0:
            raise ValueError("the peer's encoder has no registers")
        vision = Dinov2Model(
            Dinov2Config(hidden_size=architecture["hidden_size"],
                         num_hidden_layers=architecture["num_hidden_layers"],
                         num_attention_heads=architecture["num_attention_heads"], mlp_ratio=architecture["mlp_ratio"],
                         image_size=architecture["image_size"], patch_size=architecture["patch_size"],
                         layer_norm_eps=float(architecture["layer_norm_eps"]), attn_implementation="sdpa"))
        if config["vision"]["trainable"] != "lora":
            return vision
        lora = config["lora"]
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
        return get_peft_model(vision, LoraConfig(
            r=lora["r"], lora_alpha=lora["lora_alpha"], lora_dropout=lora["lora_dropout"],
            target_modules=[names.get(name, name) for name in lora["target_modules"]]))

    @staticmethod
    def make_language(language):
        return LlamaModel(
            LlamaConfig(vocab_size=language["vocab_size"], hidden_size=language["hidden_size"],
                        intermediate_size=language["intermediate_size"],
                        num_hidden_layers=language["num_hidden_layers"],
                        num_attention_heads=language["num_attention_heads"],
                        max_position_embeddings=language["max_position_embeddings"],
                        rope_parameters={"rope_type": "default", "rope_theta": float(language["rope_theta"])},
                        rms_norm_eps=float(language["rms_norm_eps"]), pad_token_id=0, bos_token_id=2, eos_token_id=3,
                        tie_word_embeddings=True, attn_implementation="sdpa"))

    @property
    def levels(self):
        return len(self.fusion.image_blocks)

    def compress(self, pixels):
        normalised = torch.addcmul(self.pixel_offset, pixels.float(), self.pixel_scale)
        return self.compressor(self.vision(normalised).last_hidden_state)

    def image_states(self, tokens):
        states = [tokens]
        for block in self.fusion.image_blocks:
            states.append(block(states[-1]))
        return states

    def rotary(self, hidden):
        return self.language.rotary_emb(hidden, torch.arange(hidden.size(1))[None])

    @staticmethod
    def attention_half(layer, hidden, rotary, mask):
        return hidden + layer.self_attn(layer.input_layernorm(hidden), position_embeddings=rotary,
                                        attention_mask=mask)[0]

    @staticmethod
    def feed_forward_half(layer, hidden):
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    def lower_text(self, ids, mask):
        """mask: [B, 1, 1, T] bool for bidirectional text, None for causal"""
        hidden = self.language.embed_tokens(ids)
        rotary = self.rotary(hidden)
        for layer in self.language.layers[:self.first_layer]:
            hidden = self.feed_forward_half(layer, self.attention_half(layer, hidden, rotary, mask))
        return hidden

    def upper_text(self, lower, mask, contexts=None, context_mask=None):
        """contexts: what each level reads, or None"""
        hidden, rotary = lower, self.rotary(lower)
        for level, layer in enumerate(self.language.layers[self.first_layer:]):
            hidden = self.attention_half(layer, hidden, rotary, mask)
            if contexts is not None:
                hidden = self.fusion.text_cross_attention[level](hidden, contexts[level], context_mask)
            hidden = self.feed_forward_half(layer, hidden)
        return self.language.norm(hidden)

    def fused(self, image, text, mask):
        """mask: [B, T] bool -> image and text states after the fused pass"""
        rotary, readable = self.rotary(text), mask[:, None, None, :]
        for level, layer in enumerate(self.language.layers[self.first_layer:]):
            next_text = self.attention_half(layer, text, rotary, readable)
            next_text = self.fusion.text_cross_attention[level](next_text, image)
            image = self.fusion.image_blocks[level](image, text, mask)
            text = self.feed_forward_half(layer, next_text)
        return image, self.language.norm(text)

    def match_logits(self, image, text, mask):
        image, text = self.fused(image, text, mask)
        head = self.match_head
        pooled_text = torch.cat([text[:, 0], masked_mean(text, mask)], -1)
        both = torch.cat([head.image_pooler(pooled_image(image)).tanh(), head.text_pooler(pooled_text).tanh()], -1)
        return head.classifier(both).float()

    def caption_logits(self, ids, image_states=None, memory=None, has_memory=None):
        tokens = None
        if memory is not None:
            tokens = self.fusion.memory_projection(memory).unflatten(1, (self.read_tokens, -1))
        mask = None
        if image_states is None:
            contexts = [tokens] * self.levels
        elif tokens is None:
            contexts = image_states
        else:
            contexts = [torch.cat([state, tokens.to(state.dtype)], 1) for state in image_states[:self.levels]]
            rows, patches = image_states[0].shape[:2]
            sees_memory = has_memory[:, None].expand(-1, self.read_tokens)
            mask = torch.cat([torch.ones(rows, patches, dtype=torch.bool), sees_memory], 1)
        hidden = self.upper_text(self.lower_text(ids, None), None, contexts, mask)
        return F.linear(hidden, self.language.embed_tokens.weight)

    def load_tessera(self, weights):
        """Weights under Tessera's names; every parameter must be given."""
        lora = hasattr(self.vision, "peft_config")
        adapted = {name.removesuffix(".lora_A.weight") for name in weights if name.endswith(".lora_A.weight")}

        def renamed_to(name):
            module, _, leaf = name.rpartition(".")
            renamed = peer_name(name, lora)
            # PEFT wraps what it adapts.
            return renamed.removesuffix(leaf) + "base_layer." + leaf if module in adapted else renamed

        renamed = {renamed_to(name): tensor for name, tensor in weights.items()}
        missing, unexpected = self.load_state_dict(renamed, strict=False)
        missing = [name for name in missing if not name.endswith(("rotary_emb.inv_freq", "mask_token"))]
        unexpected = [name for name in unexpected if not name.endswith("mask_token")]
        if missing or unexpected:
            raise ValueError(f"the weights don't fit: missing {missing}, unexpected {unexpected}")


def peer_name(name, lora):
    """Tessera's parameter name -> that of the peer's module."""
    if name.startswith("language.model."):
        return "language." + name.removeprefix("language.model.")
    if not name.startswith("vision."):
        return name
    for old, new in {"attention.attention.query": "attention.q_proj", "attention.attention.key": "attention.k_proj",
                     "attention.attention.value": "attention.v_proj", "attention.output.dense": "attention.o_proj",
                     "lora_A.weight": "lora_A.default.weight", "lora_B.weight": "lora_B.default.weight"}.items():
        name = name.replace(old, new)
    if not lora:
        return name
    name = "vision.base_model.model." + name.removeprefix("vision.")
    return name


class Queue:
    """ITC's queue, with what matching needs of a pair again. Every filled slot counts but those of a row's own image."""

    def __init__(self, tensors):
        self.image, self.text, self.image_ids, self.filled, self.image_tokens, self.token_ids = (
            tensors[name] for name in ("image", "text", "image_ids", "filled", "image_tokens", "token_ids"))
        self.next = 0

    def left_out(self, image_ids):
        return (image_ids[:, None] == self.image_ids) | ~self.filled

    @staticmethod
    def chosen(batch, queued, index):
        """Rows of both together; the queue's payload is far too large to be copied for them."""
        in_batch = (index < len(batch)).view(-1, *[1] * (batch.dim() - 1))
        queued = queued[(index - len(batch)).clamp(min=0)].to(batch.dtype)
        return torch.where(in_batch, batch[index.clamp(max=len(batch) - 1)], queued)

    def with_negative_images(self, tokens, index):
        """Own images and negative ones, all rounded as those of the queue are."""
        tokens = tokens.bfloat16().to(tokens.dtype)
        return tokens, self.chosen(tokens, self.image_tokens, index)

    def negative_ids(self, ids, index):
        return self.chosen(F.pad(ids, (0, self.token_ids.size(1) - ids.size(1))), self.token_ids, index)

    def enqueue(self, image, text, image_ids, tokens, ids):
        slots = (self.next + torch.arange(len(image))) % len(self.image)
        self.image[slots], self.text[slots], self.image_ids[slots] = image.float(), text.float(), image_ids
        self.image_tokens[slots] = tokens.bfloat16()
        self.token_ids[slots] = F.pad(ids, (0, self.token_ids.size(1) - ids.size(1)))
        self.filled[slots] = True
        self.next = (self.next + len(image)) % len(self.image)


def mean_cross_entropy(logits, positive, left_out=None):
    """Targets uniform over the positives of a row, among all that isn't left out."""
    if left_out is not None:
        logits = logits.masked_fill(left_out, MINUS_INFINITY)
    targets = positive / positive.sum(1, keepdim=True)
    return -(logits.log_softmax(1).masked_fill(~positive, 0) * targets).sum(1).mean()


def maxsim_scores(patches, tokens, mask):
    """[Bi, P, D], [Bt, T, D] -> image_to_text, text_to_image, [Bi, Bt] each"""
    texts, length = tokens.shape[:2]
    similarity = (patches.flatten(0, 1) @ tokens.flatten(0, 1).T).view(*patches.shape[:2], texts, length)
    counts = mask.sum(1).clamp_min(1)
    text_to_image = similarity.amax(1).masked_fill(~mask, 0).sum(-1) / counts
    image_to_text = similarity.masked_fill(~mask, MINUS_INFINITY).amax(-1).mean(1)
    return image_to_text, text_to_image


def next_token_loss(logits, ids, mask, is_cut):
    labels = ids.masked_fill(~mask, -100)
    labels[:, -1].masked_fill_(is_cut, -100)  # the end token of a text that was cut
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)


def softplus_loss(logits, batch, counted):
    """Cross-entropy of two classes over [matching; not matching; not matching], B pairs each."""
    margin = logits[:, 1] - logits[:, 0]
    margin = torch.cat([-margin[:batch], margin[batch:]])
    return F.softplus(margin).masked_fill(~counted, 0).sum() / counted.sum().clamp_min(1)
