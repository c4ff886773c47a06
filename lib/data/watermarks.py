"""The marks that sites and accounts leave on a picture, which a text reader reads with the text."""

import re

from lib.data.english import known_words
from lib.data.leetspeak import ACCOUNT, begins_with_a, plain_letters

# Endings of sites' names; a dot within a word is mostly a space that a reader has missed.
_ENDINGS = "com|net|org|example|co|cc|tv|io|me|info|cm|us|uk|in|app|gg|de|fr|es|it|ru|br"
_MARK = re.compile(
    rf"\W*(?:(?:https?://|www\.)\S+|@\w[\w.]{{4,}}|(?:[a-z0-9-]+\.)+(?:{_ENDINGS})(?:/\S*)?)\W*",
    re.IGNORECASE,
)


# The name of a site that is nothing but a name and an ending.
_SITE = re.compile(rf"\W*([a-z]+)\.(?:{_ENDINGS})\W*", re.IGNORECASE)


def says_a_word(mark: str) -> bool:
    """Whether a mark's name is a word: `@5ylum`, `@sians`, `kill.me`.

    A writer has hidden that, or a reader has missed a space; few sites and accounts are named by a
    word alone. Digits within an account's name, or two at its head, stand for letters.
    """
    if account := ACCOUNT.fullmatch(mark):
        name = account[1].lower()
        return (
            begins_with_a(mark)
            or re.search(r"^\d\d|[a-z]\d+[a-z]", name) is not None
            or plain_letters(name) in known_words()
        )
    site = _SITE.fullmatch(mark)
    return site is not None and site[1].lower() in known_words()


def is_watermark(word: str) -> bool:
    """Whether a word is a site's address or an account's name, `site.com` or `@name`.

    They say where a meme has been and nothing of what it says. A mail address is none.
    """
    return _MARK.fullmatch(word) is not None
