"""Golden cases of evaluation (caption_scores): pycocoevalcap, the COCO caption evaluation, on words that are separated
already, since its own tokenizer needs Java.

    python scripts/golden/make_eval.py [FOLDER]        (default: tests/golden)
"""

import pathlib
import random
import sys

import torch
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from case import write_case


def scores_case(folder, name, candidates, references):
    by_image = {i: of_image for i, of_image in enumerate(references)}
    captions = {i: [candidate] for i, candidate in enumerate(candidates)}
    bleu, _ = Bleu(4).compute_score(by_image, captions, verbose=0)
    rouge_l, _ = Rouge().compute_score(by_image, captions)
    cider_d, _ = Cider().compute_score(by_image, captions)
    write_case(
        folder / f"caption_scores_{name}.safetensors",
        "caption_scores",
        {"candidates": candidates, "references": references},
        outputs={
            "bleu": torch.tensor(bleu, dtype=torch.float64),
            "rouge_l": torch.tensor(float(rouge_l), dtype=torch.float64),
            "cider_d": torch.tensor(float(cider_d), dtype=torch.float64),
        },
        rtol=1e-9,
        atol=1e-12,
    )


def sentence(generator, words, shortest, longest):
    # Frequent and rare words, as in any text, so that document frequencies differ.
    weights = [1 / (i + 1) for i in range(len(words))]
    return " ".join(generator.choices(words, weights, k=generator.randint(shortest, longest)))


def altered(generator, reference, words):
    """The reference with words dropped, repeated and replaced."""
    result = []
    for word in reference.split():
        chance = generator.random()
        if chance < 0.15:
            continue
        result.append(generator.choice(words) if chance < 0.3 else word)
        if chance > 0.9:
            result.append(word)
    return " ".join(result)


def random_case(folder, name, images, most_references, longest, seed):
    generator = random.Random(seed)
    words = "a the dog runs on red grass with two people ball green in water café jumps brown over it's sky".split()
    references = [
        [sentence(generator, words, 1, longest) for _ in range(generator.randint(1, most_references))]
        for _ in range(images)
    ]
    candidates = [altered(generator, generator.choice(of_image), words) or "a" for of_image in references]
    scores_case(folder, name, candidates, references)


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden")
    scores_case(
        folder,
        "few",
        ["a small red circle left of a large blue square", "the dog the dog the dog", "a cat"],
        [
            ["a large blue square right of a small red circle", "the small red circle is left of the large blue square"],
            ["the dog runs", "a dog runs over the grass with the ball"],
            ["a cat sleeps on a mat in the sun all day long"],
        ],
    )
    scores_case(folder, "one_image", ["a red dog runs"], [["a red dog runs fast", "the dog is red"]])
    # Equally far from a shorter and a longer reference: the shorter one counts for BLEU.
    scores_case(folder, "lengths", ["a b c d", "e f"], [["a b c d e f", "a b"], ["e f g h", "f"]])
    scores_case(folder, "nothing_shared", ["a b c", "d e f g h"], [["x y z w"], ["u v"]])
    scores_case(folder, "empty", ["", "one blue cat sleeps here"], [["a red dog"], ["one blue cat sleeps here"]])
    random_case(folder, "one_reference", 20, 1, 12, seed=1)
    random_case(folder, "many_references", 60, 5, 18, seed=2)


if __name__ == "__main__":
    main()
