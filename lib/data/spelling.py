"""Accidents of writing undone: words run together, words mistyped or misread by one letter.

Only words that English does not know are changed, and only into frequent ones. A rare name one
letter from a frequent word is lost by it, which is why capitalised words keep their letters.
"""

import re

from lib.data.english import FREQUENT, known_words, nearest_words, segmented

_WORD = re.compile(r"([^\W\d_]+)([.,!?;:]*)")
# Letters: shorter unknown words are mostly abbreviations.
_SHORTEST_JOINED, _SHORTEST_MISTYPED = 5, 4
# Shorter pieces on average are what any row of letters falls into.
_SHORTEST_PIECES, _MOST_PIECES = 3.0, 3
_RAREST_PIECE = FREQUENT // 5
# How many times more frequent the meant word must be than any other one letter away.
_CLEARLY = 10


def respelt(word: str) -> str:
    """`word`, with punctuation behind it, as one or more known words, or as it is."""
    found = _WORD.fullmatch(word)
    if found is None or not found[1].isascii() or found[1].lower() in known_words():
        return word
    meant = _parted(found[1]) or _meant(found[1])
    return word if meant is None else meant + found[2]


def _parted(run: str) -> str | None:
    """`thoughtof` as `thought of`: two or three words whose letters these are."""
    if len(run) < _SHORTEST_JOINED or not _may_be_parted(run.lower()):
        return None
    pieces = segmented(run)
    if not 2 <= len(pieces) <= _MOST_PIECES or len(run) < _SHORTEST_PIECES * len(pieces):
        return None
    if "".join(pieces) != run.lower() or not all(map(_common, pieces)):
        return None
    ends = [sum(map(len, pieces[: count + 1])) for count in range(len(pieces))]
    return " ".join(run[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True))


def _may_be_parted(run: str) -> bool:
    """Whether any two or three frequent words have these letters: to find the likeliest is slow."""
    cuts = range(1, len(run))
    ends = [cut for cut in cuts if _common(run[:cut])]
    starts = [cut for cut in cuts if _common(run[cut:])]
    pairs = ((end, start) for end in ends for start in starts)
    return any(end == start or (end < start and _common(run[end:start])) for end, start in pairs)


def _common(piece: str) -> bool:
    letter = len(piece) == 1 and piece not in "ai"
    return not letter and known_words().get(piece, 0) >= _RAREST_PIECE


def _meant(run: str) -> str | None:
    """`tihs` as `this`: the one frequent word that is one letter away."""
    if len(run) < _SHORTEST_MISTYPED or not (run.islower() or run.isupper()):
        return None
    near = nearest_words(run.lower())
    if not near or (len(near) > 1 and near[0][1] < _CLEARLY * near[1][1]):
        return None
    return near[0][0].upper() if run.isupper() else near[0][0]
