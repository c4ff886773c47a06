"""Training texts written a little otherwise in every epoch, so that no wording is learnt by heart.

After Wei and Zou 2019, "EDA: Easy Data Augmentation Techniques", as far as it goes without a
thesaurus: words lost, words exchanged with their neighbours, typing errors.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from lib.data.text_attacks import lost_words, typos
from lib.emotions.data import EmotionData
from lib.emotions.encoding import encode, encode_all
from lib.modeling.like_lengths import LikeLengths

# What is hit of a text; small, since one word often carries the emotion.
SHARE_OF_WORDS = 0.1
# A text of fewer words could lose the word that tells its emotion.
FEWEST_WORDS = 4


def augmented(text: str, rng: np.random.Generator, share: float) -> str:
    """Return the text, or with probability `share` the text changed in one of WAYS.

    Texts of fewer than FEWEST_WORDS words stay as they are.
    """
    if rng.random() >= share or len(text.split()) < FEWEST_WORDS:
        return text
    return WAYS[int(rng.integers(len(WAYS)))](text, rng, SHARE_OF_WORDS)


def swapped_words(text: str, rng: np.random.Generator, share: float) -> str:
    """Words exchanged with the next one: a share of them, rounded, and one at least."""
    words = text.split()
    for _ in range(max(1, round(share * len(words)))):
        at = int(rng.integers(len(words) - 1))
        words[at : at + 2] = words[at + 1], words[at]
    return " ".join(words)


WAYS = (lost_words, swapped_words, typos)


class TrainingTexts(Dataset):
    """Encoded texts with float labels (L,), as a Trainer's collator takes them.

    Index `epoch * N + row` is the row's text as that epoch words it: the same in a run that was
    interrupted and goes on.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, data: EmotionData, share: float, seed: int
    ) -> None:
        self.tokenizer, self.data, self.share, self.seed = tokenizer, data, share, seed
        self.labels = data.labels.astype(np.float32)
        self.encoded = encode_all(tokenizer, data.texts)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        epoch, row = divmod(index, len(self))
        encoded, text = self.encoded[row], self.data.texts[row]
        if self.share:
            rng = np.random.default_rng((self.seed, epoch, row))
            changed = augmented(text, rng, self.share)
            encoded = encoded if changed == text else encode(self.tokenizer, changed)
        return {**encoded, "labels": self.labels[row]}

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text as it was written, (N,)."""
        return [len(encoded["input_ids"]) for encoded in self.encoded]


class LikeLengthsAnew(LikeLengths):
    """Batches of like length of `TrainingTexts`, whose index says the epoch as well."""

    def __iter__(self) -> Iterator[int]:
        return (self.epoch * len(self) + row for row in super().__iter__())
