"""Ways to write a packed text otherwise: accidents such as typing errors, and disguises.

Each takes a text, a random generator and how many words are hit: a share of those that it can
change, and one at least. With one seed a greater share hits the same words and more.
"""

import re
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from lib.data.text import is_marker

_Word = Callable[[str, np.random.Generator], str]

LEET = str.maketrans("aeiostAEIOST", "@31057@31057")

# Cyrillic and Greek letters that a reader takes for Latin ones; as code points, which do tell them
# apart.
HOMOGLYPHS = {
    **{"a": "\u0430\u03b1", "c": "\u0441", "d": "\u0501", "e": "\u0435", "h": "\u04bb"},
    **{"i": "\u0456\u03b9", "j": "\u0458", "k": "\u043a", "n": "\u03b7"},
    **{"o": "\u043e\u03bf", "p": "\u0440\u03c1", "q": "\u051b", "s": "\u0455"},
    **{"t": "\u0442", "u": "\u03c5", "v": "\u03bd", "w": "\u051d", "x": "\u0445"},
    **{"y": "\u0443", "A": "\u0410\u0391", "B": "\u0412\u0392", "C": "\u0421"},
    **{"E": "\u0415\u0395", "H": "\u041d\u0397", "I": "\u0406\u0399", "J": "\u0408"},
    **{"K": "\u041a\u039a", "M": "\u041c\u039c", "N": "\u039d", "O": "\u041e\u039f"},
    **{"P": "\u0420\u03a1", "S": "\u0405", "T": "\u0422\u03a4", "X": "\u0425\u03a7"},
    **{"Y": "\u03a5\u04ae", "Z": "\u0396"},
}

# Zero-width space, non-joiner, joiner; word joiner; soft hyphen.
UNSEEN = "\u200b\u200c\u200d\u2060\xad"

# What a text reader takes for what.
MISREAD = (
    *(("rn", "m"), ("m", "rn"), ("cl", "d"), ("d", "cl"), ("w", "vv"), ("l", "I"), ("i", "1")),
    *(("o", "0"), ("e", "c"), ("u", "v"), ("h", "b"), ("t", "f"), ("g", "q"), ("s", "5")),
)

# What a text reader also finds on a picture: the mark of a site, one thing more at each severity.
MARKS = ("memepage.example", "@memes_example", "follow for more", "posted by a friend")

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOUR_KEYS = {
    key: "".join(row[max(at - 1, 0) : at] + row[at + 1 : at + 2])
    for row in _ROWS
    for at, key in enumerate(row)
}


def typos(text: str, rng: np.random.Generator, share: float) -> str:
    """Two letters swapped, one lost, doubled, or hit beside its key; within longer words."""
    return _changed(text, rng, share, _mistyped)


def misreadings(text: str, rng: np.random.Generator, share: float) -> str:
    """Letters taken for others of like shape, once a word, as a text reader does."""
    return _changed(text, rng, share, _misread)


def joined_words(text: str, rng: np.random.Generator, share: float) -> str:
    """The space behind a word lost."""
    words = text.split()
    gaps = [at for at, pair in enumerate(pairwise(words)) if not any(map(is_marker, pair))]
    hit = _drawn(rng, gaps, share)
    ends = ("" if at in hit else " " for at in range(len(words)))
    return "".join(word + end for word, end in zip(words, ends, strict=True)).rstrip()


def homoglyphs(text: str, rng: np.random.Generator, share: float) -> str:
    """Letters exchanged for look-alikes of other scripts."""
    return _changed(text, rng, share, _look_alike)


def leetspeak(text: str, rng: np.random.Generator, share: float) -> str:
    """Letters written as digits and signs; a word of those alone would be a number, and stays."""
    return _changed(text, rng, share, _leet)


def zero_width(text: str, rng: np.random.Generator, share: float) -> str:
    """Characters that nobody sees between the letters of a word."""
    return _changed(text, rng, share, _with_unseen)


def spaced_letters(text: str, rng: np.random.Generator, share: float) -> str:
    """The letters of a word of three and more set apart."""
    return _changed(text, rng, share, lambda word, rng: " ".join(word) if len(word) > 2 else word)


def changed_case(text: str, rng: np.random.Generator, share: float) -> str:
    """Words in capitals, or capitals and small letters in turn."""
    return _changed(text, rng, share, _other_case)


def lost_words(text: str, rng: np.random.Generator, share: float) -> str:
    """Words left out."""
    return _changed(text, rng, share, lambda word, rng: "")


def watermark(text: str, rng: np.random.Generator, marks: float) -> str:
    """The first of `MARKS`, as many as asked for, read with the overlaid text."""
    words = text.split()
    end = next((i for i, word in enumerate(words) if word == "[/OCR]"), len(words))
    return " ".join([*words[:end], *MARKS[: int(marks)], *words[end:]])


def _changed(text: str, rng: np.random.Generator, share: float, change: _Word) -> str:
    words = text.split()
    # A generator a word: how many numbers one takes changes nothing for the others.
    changed = [change(word, own) for word, own in zip(words, rng.spawn(len(words)), strict=True)]
    places = [
        at
        for at, (old, new) in enumerate(zip(words, changed, strict=True))
        if old != new and not is_marker(old)
    ]
    hit = _drawn(rng, places, share)
    chosen = (changed[at] if at in hit else word for at, word in enumerate(words))
    return " ".join(word for word in chosen if word)


def _drawn(rng: np.random.Generator, places: list[int], share: float) -> set[int]:
    """A share of places, rounded, and one at least."""
    order = rng.permutation(places).tolist()
    return set(order[: max(1, round(share * len(order)))])


def _mistyped(word: str, rng: np.random.Generator) -> str:
    if len(word) < 4:
        return word
    at = int(rng.integers(1, len(word) - 2))
    before, letter, after, rest = word[:at], word[at], word[at + 1], word[at + 2 :]
    keys = NEIGHBOUR_KEYS.get(letter.lower(), letter)
    beside = keys[int(rng.integers(len(keys)))]
    kinds = (after + letter, after, letter + letter + after, beside + after)
    return before + kinds[int(rng.integers(len(kinds)))] + rest


def _misread(word: str, rng: np.random.Generator) -> str:
    found = [wrong for wrong in MISREAD if wrong[0] in word]
    if not found:
        return word
    seen, read = found[int(rng.integers(len(found)))]
    return word.replace(seen, read, 1)


def _look_alike(word: str, rng: np.random.Generator) -> str:
    return "".join(_one_of(HOMOGLYPHS.get(letter, letter), rng) for letter in word)


def _leet(word: str, rng: np.random.Generator) -> str:
    written = word.translate(LEET)
    return written if re.search(r"[^\W\d_]", written) else word


def _with_unseen(word: str, rng: np.random.Generator) -> str:
    return "".join(letter + _one_of(UNSEEN, rng) for letter in word[:-1]) + word[-1:]


def _other_case(word: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        return word.upper()
    return "".join(c.upper() if at % 2 else c.lower() for at, c in enumerate(word))


def _one_of(letters: str, rng: np.random.Generator) -> str:
    return letters[int(rng.integers(len(letters)))]
