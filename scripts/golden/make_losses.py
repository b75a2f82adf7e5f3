"""Golden cases of the losses (itc, siglip): float64 transcriptions of the formulas, rounded to float32, and what
transformers computes.

    python scripts/golden/make_losses.py [FOLDER]        (default: tests/golden)
"""

import pathlib
import sys

import torch

from case import write_case


def itc_direction(queries, query_ids, keys, key_ids, batch, temperature, queued_same_id):
    """-1/B sum_i 1/|P_i| sum_{p in P_i} log( exp(q_i k_p / t) / sum_{c in C_i} exp(q_i k_c / t) ), pair by pair."""
    total = 0
    for i in range(batch):
        scores, positive_scores = [], []
        for c in range(len(keys)):
            same = int(query_ids[i]) == int(key_ids[c])
            if same and c >= batch and queued_same_id == "ignore":
                continue
            score = (queries[i] * keys[c]).sum() / temperature
            scores.append(score)
            if same:
                positive_scores.append(score)
        log_partition = torch.logsumexp(torch.stack(scores), 0)
        total = total - sum(score - log_partition for score in positive_scores) / len(positive_scores)
    return total / batch


def itc(image, text, ids, queue_image, queue_text, queue_ids, temperature, queued_same_id):
    """Half the sum of both directions; candidates are the batch, then the queue."""
    key_ids = torch.cat([ids, queue_ids])
    image_to_text = itc_direction(
        image, ids, torch.cat([text, queue_text]), key_ids, len(ids), temperature, queued_same_id
    )
    text_to_image = itc_direction(
        text, ids, torch.cat([image, queue_image]), key_ids, len(ids), temperature, queued_same_id
    )
    return (image_to_text + text_to_image) / 2


def embeddings(count, width, generator, normalised):
    values = torch.randn((count, width), generator=generator, dtype=torch.float64)
    if normalised:
        values = torch.nn.functional.normalize(values, dim=1)
    return values.float()


def itc_case(folder, name, ids, queue_ids, temperature=0.07, width=16, queued_same_id=None, normalised=True, seed=0):
    """`queue_ids` of None leaves the queue's tensors out; `queued_same_id` of None leaves the op's default."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        "image": embeddings(len(ids), width, generator, normalised),
        "text": embeddings(len(ids), width, generator, normalised),
        "ids": torch.tensor(ids, dtype=torch.int64),
    }
    queued = len(queue_ids or [])
    queue = {
        "queue_image": embeddings(queued, width, generator, normalised),
        "queue_text": embeddings(queued, width, generator, normalised),
        "queue_ids": torch.tensor(queue_ids or [], dtype=torch.int64),
    }
    image = inputs["image"].double().requires_grad_()
    text = inputs["text"].double().requires_grad_()
    loss = itc(
        image,
        text,
        inputs["ids"],
        queue["queue_image"].double(),
        queue["queue_text"].double(),
        queue["queue_ids"],
        temperature,
        queued_same_id or "positive",
    )
    loss.backward()
    params = {"temperature": temperature}
    if queued_same_id is not None:
        params["queued_same_id"] = queued_same_id
    write_case(
        folder / f"itc_{name}.safetensors",
        "itc",
        params,
        inputs={**inputs, **(queue if queue_ids is not None else {})},
        outputs={"loss": loss.detach().float()},
        grads={"in.image": image.grad.float(), "in.text": text.grad.float()},
    )


def siglip(image, text, ids, temperature, bias):
    """-1/B sum_ij log sigmoid(z_ij (x_i y_j / t + b)), z = 1 for pairs of one id, else -1 (Zhai et al. 2023, eq. 2)."""
    total = 0
    for i in range(len(ids)):
        for j in range(len(ids)):
            sign = 1 if int(ids[i]) == int(ids[j]) else -1
            total = total - torch.nn.functional.logsigmoid(sign * ((image[i] * text[j]).sum() / temperature + bias))
    return total / len(ids)


def siglip_of_transformers(pairs, seed):
    """Embeddings of a small random SiglipModel with the loss that it computes of them, all in float64."""
    from transformers import SiglipConfig, SiglipModel

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(seed)
    model = SiglipModel(
        SiglipConfig(
            text_config={**shape, "vocab_size": 40, "max_position_embeddings": 8, "projection_size": 16, "bos_token_id": 1, "eos_token_id": 2},
            vision_config={**shape, "image_size": 16, "patch_size": 8},
        )
    ).double()
    torch.nn.init.constant_(model.logit_scale, 1.5)
    torch.nn.init.constant_(model.logit_bias, -2.0)
    with torch.no_grad():
        output = model(
            input_ids=torch.randint(3, 40, (pairs, 8)),
            pixel_values=torch.randn(pairs, 3, 16, 16, dtype=torch.float64),
            return_loss=True,
        )
    return output, model.logit_scale.detach().neg().exp().item(), model.logit_bias.item()


def siglip_case(folder, name, ids, temperature, bias, image, text, loss_of_transformers=None):
    inputs = {"image": image.float(), "text": text.float(), "ids": torch.tensor(ids, dtype=torch.int64)}
    image = inputs["image"].double().requires_grad_()
    text = inputs["text"].double().requires_grad_()
    bias = torch.tensor(bias, dtype=torch.float64, requires_grad=True)
    loss = siglip(image, text, inputs["ids"], temperature, bias)
    loss.backward()
    expected = loss.detach()
    if loss_of_transformers is not None:
        torch.testing.assert_close(expected, loss_of_transformers, rtol=1e-6, atol=1e-6)
        expected = loss_of_transformers
    write_case(
        folder / f"siglip_{name}.safetensors",
        "siglip",
        {"temperature": temperature},
        inputs={**inputs, "bias": bias.detach().float()},
        outputs={"loss": expected.float()},
        grads={"in.image": image.grad.float(), "in.text": text.grad.float(), "in.bias": bias.grad.float()},
    )


def siglip_cases(folder):
    output, temperature, bias = siglip_of_transformers(pairs=6, seed=21)
    siglip_case(
        folder, "transformers", list(range(6)), temperature, bias, output.image_embeds, output.text_embeds, output.loss
    )
    generator = torch.Generator().manual_seed(22)
    repeated = [7, 3, 7, 5, 3, 7]
    image, text = (embeddings(len(repeated), 16, generator, True) for _ in range(2))
    siglip_case(folder, "repeated_images", repeated, 0.1, -10.0, image, text)


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden")
    distinct = [7, 3, 11, 5, 2]
    repeated = [7, 3, 7, 5, 3, 7]
    queue = [1, 7, 20, 3, 3, 21, 22, 7, 23]
    itc_case(folder, "no_queue", distinct, None, seed=1)
    itc_case(folder, "empty_queue", distinct, [], seed=2)
    itc_case(folder, "repeated_images", repeated, None, seed=3)
    itc_case(folder, "queue", distinct, [30, 31, 32, 33, 34, 35, 36], seed=4)
    itc_case(folder, "queue_default", repeated, queue, seed=5)
    itc_case(folder, "queue_positive", repeated, queue, queued_same_id="positive", seed=6)
    itc_case(folder, "queue_ignore", repeated, queue, queued_same_id="ignore", seed=6)
    itc_case(folder, "one_image", [4, 4, 4], [4, 4], queued_same_id="positive", seed=7)
    itc_case(folder, "one_image_ignore", [4, 4, 4], [4, 4], queued_same_id="ignore", seed=8)
    itc_case(folder, "single_pair", [4], [5, 4, 6], queued_same_id="ignore", seed=9)
    itc_case(folder, "low_temperature", repeated, queue, temperature=0.01, seed=10)
    itc_case(folder, "not_normalised", repeated, queue, temperature=0.5, normalised=False, seed=11)
    itc_case(folder, "wide", list(range(24)), list(range(12, 60)), temperature=0.05, width=128, seed=12)
    siglip_cases(folder)


if __name__ == "__main__":
    main()
