"""Tricks of writing undone before a text is tokenised, in training and in serving alike.

Words are disguised with look-alike letters, digits for letters, characters that nobody sees, and
spaces between letters; others are run together or mistyped, and sites leave their mark on a
picture. A tokenizer cuts all that to pieces that no model has learned. The shards keep a
text as it was met; `folded` is applied where a model reads it, and its version is kept with the
model.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import pairwise

from lib.data.leetspeak import without_leetspeak
from lib.data.spaced_letters import rejoined, without_separators
from lib.data.spelling import respelt
from lib.data.text import is_marker
from lib.data.watermarks import is_watermark, says_a_word

# The version of `folded`: to be raised when any text would come out otherwise. 0: not folded.
# Models of before read version 1, without spelling and watermarks, 2, which took words for
# watermarks and numbers before words for letters, or 3, which mended every language as English.
# It was not raised when letters set apart were left undivided beyond the first 500 of a text, in
# every version: no meme has as many.
TEXT_FOLDING = 4

# Unicode's default ignorable characters, controls, and marks of the direction of writing.
_HIDDEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e"
    "\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\uffa0\ufff9-\ufffb"
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
# Joiners belong to Persian, to Indic scripts and to emoji; beside the letters of Europe they hide.
# A run is tried at its first one alone: from each in turn would take minutes over thousands.
_JOINER = "[\u200c\u200d\ufe00-\ufe0f]"
_JOINERS = re.compile(f"(?<=[!-\u052f]){_JOINER}+|(?<!{_JOINER}){_JOINER}+(?=[!-\u052f])")
# Lines through and around letters, and marks heaped on one letter; é and ế are one character each.
_STRUCK = re.compile(
    "[\u0300-\u036f]*[\u0334-\u0338\u035c-\u0362\u0488\u0489\u20d0-\u20f0][\u0300-\u036f]*"
    "|[\u0300-\u036f]{2,}"
)

# Characters; a longer word is no word, and the patterns below would take minutes over thousands.
_MOST_WORD = 200

_LETTER_NAME = re.compile(r"LATIN (?:SMALL |CAPITAL )?LETTER (SMALL CAPITAL )?([A-Z])")
_RUN = re.compile(r"[^\W\d_]+")
_TRIPLED = re.compile(r"([^\W\d_])\1{2,}", re.IGNORECASE)
_ROMAN = re.compile(r"[IVXLCDM]+")
_VOWEL = re.compile("[aeiouy]", re.IGNORECASE)
_NAMED = re.compile("Mc|Mac|.*[A-HJ-Z]I")

# Small letters that look like another small one, of which Unicode says nothing.
_SMALL_LOOK_ALIKES = {"η": "n", "μ": "u", "ω": "w", "п": "n"}


def folded(text: str, version: int = TEXT_FOLDING) -> str:
    """A packed or plain text with its disguises undone; markers stay, white space is collapsed.

    In turn: NFKC; hidden characters removed; letters spaced out or dotted rejoined (three with
    spaces, four with other signs); look-alike letters of other scripts made Latin in words that mix
    scripts, and in words of look-alikes alone where the text has Latin letters and no true word of
    that script; letters of random case made small; digits and signs within words read as letters
    (`lib.data.leetspeak`); three and more equal letters made two; words run together parted, words
    mistyped by a letter mended (`lib.data.spelling`), unless the text's `<lang=…>` says that it is
    not English; marks of sites and accounts left out (`lib.data.watermarks`). Folding twice changes
    nothing.
    """
    while (once := _folded_once(text, version)) != text:
        text = once
    return text


def check_folding(version: int, where: str) -> int:
    """The version of the folding that a model was trained with, 0 for none.

    Raises ValueError naming `where` if it is one that is not known here.
    """
    if version not in range(TEXT_FOLDING + 1):
        raise ValueError(
            f"{where}: text_folding is {version!r}, but the newest known here is "
            f"{TEXT_FOLDING} (0: none): train the model again, or use the release that trained it"
        )
    return version


def _folded_once(text: str, version: int) -> str:
    text = unicodedata.normalize("NFKC", text)
    text = _STRUCK.sub("", _JOINERS.sub("", _HIDDEN.sub("", text)))
    if not text.isascii():
        text = "".join(c if c.isascii() else _lettered(c) for c in text)
    words = text.split()
    if version > 1:
        words = [w for w in words if not _is_left_out(w, version)]
    english = version < 4 or _is_english(words)
    read = partial(_folded_word, kept=_true_scripts(words), version=version, english=english)
    joined = rejoined(words, read, english)
    return " ".join(word if is_marker(word) else read(word) for word in joined)


def _is_english(words: Sequence[str]) -> bool:
    """Whether a text's last marker calls it English, or no marker says what it is."""
    said = next((word for word in reversed(words) if word.startswith("<lang=")), "<lang=en>")
    return re.split("[-_]", said[6:-1].lower())[0] in ("en", "eng", "english", "und", "")


def _is_left_out(word: str, version: int) -> bool:
    if is_marker(word) or len(word) > _MOST_WORD or not is_watermark(word):
        return False
    return version < 3 or not says_a_word(word)


@lru_cache(maxsize=50_000)
def _folded_word(word: str, kept: frozenset[str], version: int, english: bool) -> str:
    if len(word) > _MOST_WORD:
        return word
    if not word.isascii():
        word = _RUN.sub(lambda run: _latin_run(run[0], kept), word)
    word = without_separators(word)
    word = _RUN.sub(lambda run: _one_case(run[0]), word)
    word = without_leetspeak(word, version)
    word = _RUN.sub(lambda run: _shortened(run[0]), word)
    return respelt(word) if version > 1 and english else word


def _one_case(run: str) -> str:
    """`heIIo` with l, `hAtE` and `hIs` in small letters; `iPhone`, `FamilyDinner` as they are."""
    capitals = {letter for letter in run[1:] if letter.isupper()}
    if capitals == {"I"} and not run.isupper() and not _NAMED.match(run):
        read = run[0] + run[1:].replace("I", "l")
        # A word has a vowel.
        return read if _VOWEL.search(read) else run.lower()
    switches = sum(a.islower() != b.islower() for a, b in pairwise(run))
    wild = switches > 2 and 4 * switches >= 3 * (len(run) - 1)
    return run.lower() if wild else run


def _shortened(run: str) -> str:
    """`soooo` as `soo`; what is one letter alone, as `KKK` and `www`, keeps three."""
    if _ROMAN.fullmatch(run):
        return run
    return run[:3] if len(set(run.lower())) == 1 else _TRIPLED.sub(r"\1\1", run)


def _latin_run(run: str, kept: frozenset[str]) -> str:
    """A run of letters in Latin ones, where those of other scripts all look like such.

    One script alone stays what it is if it is among `kept`.
    """
    scripts = {_script(letter) for letter in run}
    if scripts == {"LATIN"} or (len(scripts) == 1 and scripts & kept):
        return run
    looks = [letter if _script(letter) == "LATIN" else _look_alike(letter) for letter in run]
    return "".join(looks) if all(looks) else run


def _true_scripts(words: Sequence[str]) -> frozenset[str]:
    """The scripts that a text is written in.

    One is, if a word of it has a letter that looks like no Latin one; all are, without Latin.
    """
    runs = [run for word in words if not word.isascii() for run in _RUN.findall(word)]
    if not runs:
        return frozenset()
    scripts = {script for run in runs for script in map(_script, run)}
    latin = "LATIN" in scripts or any(
        _RUN.search(word) for word in words if word.isascii() and not is_marker(word)
    )
    if not latin:
        return frozenset(scripts)
    found = [(set(map(_script, run)), all(map(_look_alike, run))) for run in runs]
    return frozenset().union(*(own for own, disguise in found if len(own) == 1 and not disguise))


@lru_cache(maxsize=10_000)
def _lettered(char: str) -> str:
    """The ASCII letter that a character is by its name (small capital, squared), or itself."""
    found = _LETTER_NAME.search(unicodedata.name(char, ""))
    if found is None or found.end() != len(found.string):
        return char
    return found[2].lower() if found[1] or "SMALL LETTER" in found.string else found[2]


@lru_cache(maxsize=10_000)
def _script(letter: str) -> str:
    """The first word of a letter's name in Unicode, which is its script."""
    return "LATIN" if letter.isascii() else unicodedata.name(letter, "?").split()[0]


@lru_cache(maxsize=10_000)
def _look_alike(letter: str) -> str:
    """The ASCII letter that a letter of another script is taken for, "" if there is none.

    These are Unicode's confusables (Technical Standard 39). A small letter without one is taken for
    what its capital is: в, н, к, м and т are small forms of capitals.
    """
    # Imported here: its tables take a while to load, and few texts need them.
    from confusable_homoglyphs import confusables

    if letter.lower() in _SMALL_LOOK_ALIKES:
        return _SMALL_LOOK_ALIKES.get(letter, "")
    for form in (letter, letter.upper()):
        if len(form) != 1:
            continue
        found = confusables.is_confusable(form, greedy=True) or []
        looks = [same["c"] for entry in found for same in entry["homoglyphs"]]
        ascii_letters = [c for c in looks if len(c) == 1 and c.isascii() and c.isalpha()]
        if ascii_letters:
            best = "I" if form.isupper() and ascii_letters[0] == "l" else ascii_letters[0]
            return best.lower() if letter.islower() else best.upper()
    return ""
