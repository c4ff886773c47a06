"""Training memes with their pictures altered: what a head that is to withstand that learns from."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from lib.data import picture_attacks

# Part of what features and models are made from: raise it with any change below.
ALTERED_PICTURES = 1

# Each as likely as the others, its level drawn evenly from the range. Crops, borders and captions
# are left out, so that Step 7's robustness also says how far the habit carries.
ALTERATIONS = {
    picture_attacks.noise: (0.04, 0.4),
    picture_attacks.blur: (0.5, 6),
    picture_attacks.jpeg: (5, 40),
    picture_attacks.resize: (0.2, 0.7),
}


def altered(sample: Mapping[str, Any]) -> dict[str, Any]:
    """An item of `MemeShards` with its picture noisy, blurred, coarse or badly compressed.

    What is done follows from the meme's id, so that it is the same in every process and run. A
    picture of one colour, which stands for none, stays as it is.
    """
    image = sample["image"]
    if all(low == high for low, high in image.getextrema()):
        return dict(sample)
    seed = hashlib.sha256(f"{ALTERED_PICTURES} {sample['id']}".encode()).digest()
    rng = np.random.default_rng(list(seed))
    change, (least, most) = list(ALTERATIONS.items())[rng.integers(len(ALTERATIONS))]
    return {**sample, "image": change(image, rng, rng.uniform(least, most))}
