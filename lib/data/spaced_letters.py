"""Words whose letters are set apart, `h a t e`, made words again."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from lib.data.english import known_words, segmented
from lib.data.leetspeak import SIGNS

_LAST_OF_WORD = re.compile(r"[^\W\d_][.,!?;:]+")
_DOTTED = re.compile(r"(?<![^\W_])[^\W\d_](?:([-_.*·•~|/+])[^\W\d_])(?:\1[^\W\d_]){2,}(?![^\W_])")
# Shorter rows of letters are one word.
_SHORTEST_ROW = 6
# Letters of a text: no meme has as many set apart, and to divide thousands takes seconds.
_MOST_DIVIDED = 500


def rejoined(words: Sequence[str], read: Callable[[str], str], english: bool = True) -> list[str]:
    """Words with each row of three and more single letters made the words it spells.

    `read` undoes other tricks in a joined row, among whose letters there may be signs for such.
    A row that is not `english` becomes one word, and so does one with which a text has more than
    `_MOST_DIVIDED` letters set apart.
    """
    left = _MOST_DIVIDED if english else 0

    def divided(letters: str) -> list[str]:
        nonlocal left
        left -= len(letters)
        return _divided(letters) if left >= 0 else [letters]

    spelt = partial(_spelt, read=read, divided=divided)
    joined: list[str] = []
    row: list[str] = []
    for word in words:
        if len(word) == 1 and (_cased(word) or word in SIGNS):
            row.append(word)
            continue
        last = _LAST_OF_WORD.fullmatch(word) is not None
        joined += spelt([*row, word]) if last else [*spelt(row), word]
        row = []
    return joined + spelt(row)


def without_separators(word: str) -> str:
    """`h.a.t.e` and `h-a-t-e` as one word; `U.S.S.R` is an abbreviation."""
    return _DOTTED.sub(_without, word)


def _without(match: re.Match[str]) -> str:
    abbreviated = match[1] == "." and match[0].isupper()
    return match[0] if abbreviated else match[0].replace(match[1], "")


def _spelt(
    row: Sequence[str], read: Callable[[str], str], divided: Callable[[str], list[str]]
) -> list[str]:
    places = [place for place, letter in enumerate(row) if _cased(letter[0])]
    if len(places) < 3:
        return list(row)
    start, end = places[0], places[-1] + 1
    return [*row[:start], *divided(read("".join(row[start:end]))), *row[end:]]


def _divided(letters: str) -> list[str]:
    """The words that a row of letters most likely holds; what no English word fits stays whole."""
    spelt = letters.rstrip(".,!?;:")
    if len(spelt) < _SHORTEST_ROW or not (spelt.isascii() and spelt.isalpha()):
        return [letters]
    known = known_words()
    if spelt.lower() in known:
        return [letters]
    pieces = _mended(segmented(spelt), known)
    if "".join(pieces) != spelt.lower():
        return [letters]
    ends = [sum(map(len, pieces[: count + 1])) for count in range(len(pieces))]
    starts = [0, *ends[:-1]]
    # The last one takes the punctuation along.
    ends[-1] = len(letters)
    return [letters[start:end] for start, end in zip(starts, ends, strict=True)]


def _mended(pieces: Sequence[str], known: Mapping[str, int]) -> list[str]:
    """Pieces that are no words, and single letters but `a` and `i`, put to what follows them."""
    mended: list[str] = []
    whole = True
    for piece in pieces:
        if whole:
            mended.append(piece)
        else:
            mended[-1] += piece
        whole = piece in known and (len(piece) > 1 or piece in "ai")
    if not whole and len(mended) > 1:
        mended[-2:] = ["".join(mended[-2:])]
    return mended


def _cased(letter: str) -> bool:
    """Whether it is a letter of a script with capitals; of others a single one may be a word."""
    return letter.isalpha() and letter.lower() != letter.upper()
