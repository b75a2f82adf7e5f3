"""Golden cases of matching and late interaction (itm_weights, maxsim, maxsim_loss): float64 transcriptions of the
formulas, rounded to float32.

    python scripts/golden/make_matching.py [FOLDER]        (default: tests/golden)
"""

import pathlib
import sys

import torch

from case import write_case


def normalised(values):
    return torch.nn.functional.normalize(values, dim=-1)


def noise(shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def hard_negative_weights(queries, query_ids, keys, key_ids, temperature):
    """exp(q_i k_c / t) / sum over the c of other images; 0 for the image's own, all 0 where there is no other."""
    weights = torch.zeros(len(queries), len(keys), dtype=torch.float64)
    for i, query in enumerate(queries):
        others = [c for c in range(len(keys)) if query_ids[i] != key_ids[c]]
        scores = [(query * keys[c]).sum() / temperature for c in others]
        for c, score in zip(others, scores):
            weights[i, c] = torch.exp(score - torch.logsumexp(torch.stack(scores), 0))
    return weights


def itm_weights_case(folder, name, ids, queue_ids, temperature=0.07, width=16, seed=0):
    """`queue_ids` of None leaves the queue's tensors out."""
    generator = torch.Generator().manual_seed(seed)
    image, text = (normalised(noise((len(ids), width), generator)).float() for _ in range(2))
    queued = len(queue_ids or [])
    queue_image, queue_text = (normalised(noise((queued, width), generator)).float() for _ in range(2))
    inputs = {"image": image, "text": text, "ids": torch.tensor(ids, dtype=torch.int64)}
    if queue_ids is not None:
        inputs["queue_image"] = queue_image
        inputs["queue_text"] = queue_text
        inputs["queue_ids"] = torch.tensor(queue_ids, dtype=torch.int64)

    key_ids = ids + (queue_ids or [])
    texts = torch.cat([text, queue_text]).double()
    images = torch.cat([image, queue_image]).double()
    write_case(
        folder / f"itm_weights_{name}.safetensors",
        "itm_weights",
        {"temperature": temperature},
        inputs=inputs,
        outputs={
            "text_weights": hard_negative_weights(image.double(), ids, texts, key_ids, temperature).float(),
            "image_weights": hard_negative_weights(text.double(), ids, images, key_ids, temperature).float(),
        },
    )


def first_greatest(values):
    """The greatest of some scalars; of equals the first, so that the gradient goes to one of them alone."""
    best = values[0]
    for value in values[1:]:
        if value > best:
            best = value
    return best


def maxsim(patches, tokens, mask):
    """FILIP's two directions (Yao et al. 2021, eq. 3-4), one pair of an image and a text at a time."""
    image_to_text, text_to_image = [], []
    for image in patches:
        for text, real in zip(tokens, mask):
            similarity = [[(patch * token).sum() for token in text[real]] for patch in image]
            of_patches = [first_greatest(row) for row in similarity]
            of_tokens = [first_greatest(column) for column in zip(*similarity)]
            image_to_text.append(sum(of_patches) / len(of_patches))
            text_to_image.append(sum(of_tokens) / len(of_tokens))
    shape = len(patches), len(tokens)
    return torch.stack(image_to_text).view(shape), torch.stack(text_to_image).view(shape)


def mean_cross_entropy(logits, row_ids, column_ids):
    """Targets uniform over the columns of the row's id."""
    total = 0
    for row, row_id in zip(logits, row_ids):
        positives = [score for score, column_id in zip(row, column_ids) if column_id == row_id]
        total = total + torch.logsumexp(row, 0) - sum(positives) / len(positives)
    return total / len(logits)


def token_sets(images, patch_count, lengths, token_count, width, generator, values):
    """Patches, tokens, mask. What stands at padding is large, so that it shows where it counts."""
    if values == "integers":  # many exactly equal similarities
        patches, tokens = (
            torch.randint(-1, 2, shape, generator=generator).double()
            for shape in ((images, patch_count, width), (len(lengths), token_count, width))
        )
    else:
        patches = noise((images, patch_count, width), generator)
        tokens = noise((len(lengths), token_count, width), generator)
    if values == "normalised":
        patches, tokens = normalised(patches), normalised(tokens)
    mask = torch.arange(token_count)[None] < torch.tensor(lengths)[:, None]
    tokens[~mask] = 50 * noise((int((~mask).sum()), width), generator)
    return patches.float(), tokens.float(), mask


def maxsim_case(folder, name, images, patch_count, lengths, token_count, width=8, values="normalised", seed=0, hole=None):
    """`hole` masks that token of every text."""
    generator = torch.Generator().manual_seed(seed)
    patches, tokens, mask = token_sets(images, patch_count, lengths, token_count, width, generator, values)
    if hole is not None:
        mask[:, hole] = False
    patch_leaf, token_leaf = patches.double().requires_grad_(), tokens.double().requires_grad_()
    image_to_text, text_to_image = maxsim(patch_leaf, token_leaf, mask)
    cotangents = {
        "image_to_text": noise(image_to_text.shape, generator).float(),
        "text_to_image": noise(text_to_image.shape, generator).float(),
    }
    total = (image_to_text * cotangents["image_to_text"]).sum() + (text_to_image * cotangents["text_to_image"]).sum()
    total.backward()
    write_case(
        folder / f"maxsim_{name}.safetensors",
        "maxsim",
        inputs={"patches": patches, "tokens": tokens, "mask": mask},
        outputs={"image_to_text": image_to_text.float(), "text_to_image": text_to_image.float()},
        grads={"in.patches": patch_leaf.grad.float(), "in.tokens": token_leaf.grad.float()},
        cotangents=cotangents,
    )


def maxsim_loss_case(
    folder, name, image_ids, text_ids, lengths, temperature=0.07, patch_count=5, values="normalised", seed=0
):
    generator = torch.Generator().manual_seed(seed)
    patches, tokens, mask = token_sets(len(image_ids), patch_count, lengths, 6, 8, generator, values)
    patch_leaf, token_leaf = patches.double().requires_grad_(), tokens.double().requires_grad_()
    image_to_text, text_to_image = maxsim(patch_leaf, token_leaf, mask)
    of_images = mean_cross_entropy(image_to_text / temperature, image_ids, text_ids)
    of_texts = mean_cross_entropy(text_to_image.t() / temperature, text_ids, image_ids)
    loss = (of_images + of_texts) / 2
    loss.backward()
    write_case(
        folder / f"maxsim_loss_{name}.safetensors",
        "maxsim_loss",
        {"temperature": temperature},
        inputs={
            "patches": patches,
            "tokens": tokens,
            "mask": mask,
            "image_ids": torch.tensor(image_ids, dtype=torch.int64),
            "text_ids": torch.tensor(text_ids, dtype=torch.int64),
        },
        outputs={"loss": loss.float()},
        grads={"in.patches": patch_leaf.grad.float(), "in.tokens": token_leaf.grad.float()},
    )


def main():
    default = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    distinct, repeated, queue = [7, 3, 11, 5], [7, 3, 7, 5, 3], [1, 7, 20, 3, 21]
    itm_weights_case(folder, "no_queue", distinct, None, seed=21)
    itm_weights_case(folder, "queue", repeated, queue, seed=22)
    itm_weights_case(folder, "one_image", [4, 4, 4], None, seed=23)
    itm_weights_case(folder, "one_image_others_queued", [4, 4, 4], [4, 6, 4, 8], seed=24)
    itm_weights_case(folder, "single_pair_itself_queued", [4], [4, 4], seed=25)
    itm_weights_case(folder, "low_temperature", repeated, queue, temperature=0.01, seed=26)

    maxsim_case(folder, "padding", 4, 6, [7, 3, 1, 5, 7], 7, seed=31)
    maxsim_case(folder, "single_pair", 1, 5, [3], 4, seed=32)
    maxsim_case(folder, "one_patch_one_token", 3, 1, [1, 1], 1, seed=33)
    maxsim_case(folder, "many_patches", 2, 300, [5, 2, 4], 5, seed=34)
    maxsim_case(folder, "many_tokens", 2, 3, [270, 262], 270, width=4, seed=35)
    maxsim_case(folder, "ties", 3, 18, [6, 4, 5], 6, width=3, values="integers", seed=36)
    maxsim_case(folder, "not_normalised_hole", 3, 17, [6, 4, 5], 6, values="plain", seed=37, hole=1)

    lengths = [6, 3, 1, 5, 2]
    maxsim_loss_case(folder, "distinct", distinct, distinct, lengths[:4], seed=41)
    maxsim_loss_case(folder, "repeated", repeated, repeated, lengths, seed=42)
    maxsim_loss_case(folder, "several_captions", [7, 3, 5], [3, 7, 7, 5, 3], lengths, seed=43)
    maxsim_loss_case(folder, "one_image", [4, 4], [4, 4], lengths[:2], seed=44)
    maxsim_loss_case(folder, "single_pair", [4], [4], [3], seed=45)
    maxsim_loss_case(folder, "low_temperature", repeated, repeated, lengths, temperature=0.01, seed=46)
    maxsim_loss_case(folder, "not_normalised", repeated, repeated, lengths, 0.5, patch_count=20, values="plain", seed=47)


if __name__ == "__main__":
    main()
