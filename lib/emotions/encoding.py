"""Texts to token ids, as the classifier learns and reads them."""

import unicodedata
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

MAX_TOKENS = 64


class _SpeltOut(dict[int, str]):
    """What stands for each code point; a sign is looked up in Unicode's tables once."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        if unicodedata.category(sign) in ("So", "Sk"):
            sign = f" {unicodedata.name(sign, '').lower()} "
        return self.setdefault(code, sign)


_SPELT_OUT = _SpeltOut()


def normalise(text: str) -> str:
    """Spell emoji out by their Unicode names, which a BERT vocabulary can read.

    Without this they become unknown tokens, though few signs carry more of the emotion.
    """
    return text.translate(_SPELT_OUT)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> dict[str, list[int]]:
    """Return `input_ids` and `attention_mask` of the normalised text, at most MAX_TOKENS long."""
    return encode_all(tokenizer, [text])[0]


def encode_all(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[dict[str, list[int]]]:
    """Return what `encode` returns of each text; the tokenizer is called once."""
    if not texts:
        return []
    found = tokenizer(
        [normalise(text) for text in texts],
        truncation=True,
        max_length=MAX_TOKENS,
        return_token_type_ids=False,
    )
    rows = zip(*found.values(), strict=True)
    return [dict(zip(found, row, strict=True)) for row in rows]
