"""Digits and signs that stand for letters, `h4te` and `$hame`, put back; numbers stay numbers."""

import re
from functools import partial

from lib.data.english import known_words

# What each sign stands for. 2 is left out: `face2face`, `b2b`.
SIGNS = dict(zip("013456789@$€!|", "oieasgtbgaseil", strict=True))
_AS_LETTERS = str.maketrans("".join(SIGNS), "".join(SIGNS.values()))

# These stand for a letter only between letters: `gr8`, `covid19` and `n95` are ordinary.
_WEAK = set("689!|")

_TOKEN = re.compile(r"[^\W_@$€](?:[^\W_]|[@$€!|])*(?:[^\W_]|[@$€])|[@$€](?:[^\W_]|[@$€!|])*[^\W_]")
_BLOCK = re.compile(r"[\d@$€!|]+")

# Words with digits that are no disguise: ordinals, amounts with a unit, plurals of numbers.
_AMOUNT = re.compile(
    r"[$€]?\d+(?:st|nd|rd|th|s|am|pm|k|m|b|d|g|p|x|v|w|kg|km|cm|mm|ft|mph|kph|gb|mb|tb|hz|fps|ml|lb"
    r"|lbs|oz|min|hr|hrs|yo|yr|yrs|ish|plus|kb|c|f|(?:x|v|in|on|to)\d+)"
)
_NAMES = frozenset(
    re.split(
        " ",
        "mp3 mp4 ps1 ps3 ps4 ps5 ww1 ww3 mi5 h1 co2 a4 b4 4chan 7up 7eleven "
        "3some 4ever 4u 4me c3po m4a1 us$ a$ c$ u$d",
    )
)
# Words that a number commonly follows: `top5`, `type1`, `iphone7`.
_COUNTED = frozenset(
    re.split(
        " ",
        "area boeing ch channel chapter class covid day ep episode euro gen gpt group ios ipad "
        "iphone level mark mp no nr number page part phase player ps psalm round route season "
        "stage step team top type version vol web week win windows ww year",
    )
)
# Links, mail addresses and, from five letters on, names of accounts.
_ADDRESS = re.compile(
    r"://|\bwww\.|\w\.\w+/\w|\w@[\w-]+\.\w|^\W*@(?:\W*[^\W\d_]){5}", re.IGNORECASE
)
# An account, and its name.
ACCOUNT = re.compile(r"\W*@(\w+)\W*")
# One sign and one letter: most such pairs are names (`4k`, `5g`), these are words.
_PAIRS = frozenset(("0f", "0n", "0r", "0h", "1f", "1n", "1t", "7o"))


def without_leetspeak(word: str, version: int) -> str:
    """A word with the letters that its digits and signs stand for, by that version of the folding.

    Only within words that have letters, and not in ordinary ones: `2nd`, `covid19`, `mp3`, `h2o`,
    `$5k`, addresses. One sign between letters is read as a letter, at an end where no number is
    usual; several blocks of them in one word are no accident. Since version 3 `3days` stays, a
    number and a word of English, and `@sians` is no account.
    """
    if _ADDRESS.search(word) and not (version > 2 and begins_with_a(word)):
        return word
    return _TOKEN.sub(partial(_read, version=version), word)


def begins_with_a(word: str) -> bool:
    """Whether a word's first sign is an `@` that makes a word of English of it, read as an a."""
    found = ACCOUNT.fullmatch(word)
    return found is not None and "a" + plain_letters(found[1]) in known_words()


def plain_letters(name: str) -> str:
    """A name in small letters, with those that its digits and signs stand for."""
    return name.lower().translate(_AS_LETTERS)


def _read(match: re.Match[str], version: int) -> str:
    token = match[0]
    low = _small(token)
    blocks = list(_BLOCK.finditer(low))
    letters = sum(c.isalpha() for c in low)
    if not blocks or not letters or low in _NAMES:
        return token
    if low not in _PAIRS and _AMOUNT.fullmatch(low):
        return token
    # A number before a word: `4Retirees`.
    if blocks[0].start() == 0 and re.match(r"\d+[A-Z][a-z]", token):
        return token
    if any(not set(block[0]) <= SIGNS.keys() for block in blocks):
        return token
    if version > 2 and _is_counted(low, blocks):
        return token
    several = len(blocks) > 1
    spelt = _BLOCK.sub(lambda b: _letters(b, low, letters, several), low)
    # The case of what was there stays: only the signs are replaced.
    upper = token.isupper()
    return "".join(
        old if old.isalpha() else (new.upper() if upper else new)
        for old, new in zip(token, spelt, strict=True)
    )


def _small(token: str) -> str:
    """A token in small letters and as long as it was: `İ`, which becomes two signs, stays."""
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in token)


def _is_counted(word: str, blocks: list[re.Match[str]]) -> bool:
    """`3days`, `1million`: digits before a word, which with letters for them is none."""
    first = blocks[0]
    if len(blocks) > 1 or first.start() or not first[0].isdigit():
        return False
    counted, read = word[first.end() :], plain_letters(word)
    return len(counted) > 2 and counted in known_words() and read not in known_words()


def _letters(block: re.Match[str], word: str, letters: int, several: bool) -> str:
    """The letters that a block of signs stands for, or the block where it is a number."""
    signs, start, end = block[0], block.start() == 0, block.end() == len(word)
    between = not start and not end
    if set(signs) & _WEAK and not (between and letters >= 3 and len(signs) == 1):
        disguise = several and len(signs) == 1 and not set(signs) & set("!|")
    elif several or "@" in signs:
        disguise = len(signs) <= 3 and (not start or letters > 1 or len(signs) == 1)
    elif between:
        disguise = len(signs) == 1 or (len(signs) == 2 and len(set(signs)) == 1)
    elif start:
        disguise = _opens(signs, word, letters)
    else:
        disguise = _closes(signs, word, letters)
    if not disguise:
        return signs
    # Two ones are a double l, as in `ki11`; a single one is an i.
    return signs.replace("11", "ll").translate(_AS_LETTERS)


def _opens(signs: str, word: str, letters: int) -> bool:
    if len(signs) > 1:
        return False
    return signs == "@" or letters >= 2 or signs in "$€" or word in _PAIRS


def _closes(signs: str, word: str, letters: int) -> bool:
    before = word[: -len(signs)]
    if before in _COUNTED:
        return False
    if len(signs) == 2:
        return signs in ("00", "11", "33", "55") and letters <= 3
    if len(signs) > 1:
        return False
    if signs in "03$€@":
        return True
    # `girl5`, `wha7`, `ha5`; not `f1`, `i7`, `k4`.
    return letters >= 3 or (letters == 2 and signs in "57" and bool(set(before) & set("aeiou")))
