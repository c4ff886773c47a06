"""The words of English and how frequent they are: symspellpy's list of 82,765."""

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import as_file, files
from typing import Any

# Occurrences in the list's corpus; 5,746 words are as frequent.
FREQUENT = 10_000_000


def known_words() -> Mapping[str, int]:
    """Each word in small letters with its count."""
    return _words().words


def segmented(letters: str) -> list[str]:
    """The words, in small letters, that a row of letters without spaces most likely is.

    What no word fits comes as pieces that `known_words` does not hold.
    """
    found = _words().word_segmentation(letters.lower(), max_edit_distance=0)
    return found.segmented_string.split()


@lru_cache(maxsize=50_000)
def nearest_words(word: str) -> list[tuple[str, int]]:
    """The frequent words one edit from `word`, or equal to it, with their counts, highest first.

    An edit is a letter more, less or another, or two neighbours swapped (Damerau 1964).
    """
    from symspellpy import Verbosity

    found = _frequent().lookup(word, Verbosity.ALL, max_edit_distance=1)
    return sorted(((each.term, each.count) for each in found), key=lambda pair: (-pair[1], pair[0]))


@lru_cache(maxsize=1)
def _words() -> Any:
    """Loaded when a text first needs it: that takes a second."""
    from symspellpy import SymSpell

    known = SymSpell(max_dictionary_edit_distance=0)
    with as_file(files("symspellpy") / "frequency_dictionary_en_82_765.txt") as frequencies:
        known.load_dictionary(frequencies, 0, 1)
    return known


@lru_cache(maxsize=1)
def _frequent() -> Any:
    from symspellpy import SymSpell

    frequent = SymSpell(max_dictionary_edit_distance=1)
    for word, count in known_words().items():
        if count >= FREQUENT:
            frequent.create_dictionary_entry(word, count)
    return frequent
