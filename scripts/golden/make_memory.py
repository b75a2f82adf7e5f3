"""Golden cases of the episodic memory (memory_episode): a float64 transcription of Larimar's formulas with explicit
memories and pseudo-inverses, rounded to float32.

    python scripts/golden/make_memory.py [FOLDER]        (default: tests/golden)
"""

import pathlib
import sys

import torch

from case import write_case

SLOTS, CODE_SIZE = 12, 20
NOISES = ("written", "written_addresses", "queries", "addresses", "codes")


def pinv(matrix):
    """By singular values. A memory written from E < K codes has rank E: what is below 1e-9 of the largest is rounding."""
    return torch.linalg.pinv(matrix, rtol=1e-9)


def read(codes, query, prior_mean, log_variance, sigma, noise):
    """One episode [E, C] and one query [C]: z_r, KL, mean address."""
    noisy = codes + sigma * noise["written"]
    addresses = (noisy + sigma * noise["written_addresses"]) @ pinv(prior_mean)
    memory = pinv(addresses) @ noisy
    mean = (query + sigma * noise["queries"]) @ pinv(memory)
    sample = mean + torch.exp(log_variance / 2) * noise["addresses"]
    kl = 0.5 * (torch.exp(log_variance) + mean**2 - 1 - log_variance).sum()
    return sample @ memory + sigma * noise["codes"], kl, mean


def noise_of(noises, n, q, kept):
    """The noise of query q of episode n, as it enters the items that are kept."""
    of_items = ("written", "written_addresses")
    return {name: values[n][kept] if name in of_items else values[n, q] for name, values in noises.items()}


def episode_case(folder, name, items, queries, sigma=0.0, noisy=False, without_own=False, image_ids=None, episodes=2,
                 seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).float()

    inputs = {"codes": normal(episodes, items, CODE_SIZE), "queries": normal(episodes, queries, CODE_SIZE)}
    weights = {
        "prior_mean": normal(SLOTS, CODE_SIZE) / CODE_SIZE**0.5,
        "address_log_variance": normal(SLOTS) - 2,
    }
    shapes = {
        "written": (episodes, items, CODE_SIZE),
        "written_addresses": (episodes, items, CODE_SIZE),
        "queries": (episodes, queries, CODE_SIZE),
        "addresses": (episodes, queries, SLOTS),
        "codes": (episodes, queries, CODE_SIZE),
    }
    noises = {key: torch.zeros(shapes[key]) for key in NOISES}
    if noisy:
        # The ridge of a noisy reading is sigma², which the formulas have not: a small sigma under large numbers
        # separates the two.
        noises = {key: normal(*shapes[key]) * (1 if key == "addresses" else 0.2 / sigma) for key in NOISES}
    leaves = {f"in.{key}": value.double().requires_grad_() for key, value in inputs.items()}
    leaves |= {f"w.{key}": value.double().requires_grad_() for key, value in weights.items()}
    wide_noises = {key: value.double() for key, value in noises.items()}

    results = []
    for n in range(episodes):
        for q in range(queries):
            ids = image_ids[n] if image_ids else range(items)
            kept = [i for i in range(items) if not (without_own and ids[i] == ids[q])]
            results.append(
                read(
                    leaves["in.codes"][n][kept],
                    leaves["in.queries"][n, q],
                    leaves["w.prior_mean"],
                    leaves["w.address_log_variance"],
                    sigma,
                    noise_of(wide_noises, n, q, kept),
                )
            )
    outputs = {
        key: torch.stack(values).reshape(episodes, queries, *values[0].shape)
        for key, values in zip(("read", "kl", "addresses"), zip(*results))
    }
    cotangents = {"read": normal(*outputs["read"].shape), "kl": 0.1 * normal(*outputs["kl"].shape)}
    sum((outputs[key] * cotangents[key].double()).sum() for key in cotangents).backward()

    params = {"noise": sigma} if sigma else {}
    if without_own:
        params["without_own"] = True
    if image_ids:
        inputs["image_ids"] = torch.tensor(image_ids)
    if noisy:
        inputs |= {f"noise_{key}": value for key, value in noises.items()}
    write_case(
        folder / f"memory_episode_{name}.safetensors",
        "memory_episode",
        params,
        inputs=inputs,
        weights=weights,
        outputs={key: value.detach().float() for key, value in outputs.items()},
        grads={key: leaf.grad.float() for key, leaf in leaves.items()},
        cotangents=cotangents,
    )


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden")
    episode_case(folder, "noise_free", items=5, queries=3, seed=1)
    episode_case(folder, "full", items=SLOTS, queries=4, seed=2)
    episode_case(folder, "one_item", items=1, queries=2, seed=3)
    episode_case(folder, "noise", items=5, queries=3, sigma=1e-4, noisy=True, seed=4)
    episode_case(folder, "without_own", items=5, queries=5, without_own=True, seed=5)
    episode_case(folder, "without_own_noise", items=5, queries=5, sigma=1e-4, noisy=True, without_own=True, seed=6)
    episode_case(folder, "without_own_image", items=6, queries=6, without_own=True,
                 image_ids=[[7, 3, 7, 9, 3, 7], [1, 2, 3, 4, 5, 5]], seed=7)


if __name__ == "__main__":
    main()
