"""The marks that sites and accounts leave on a picture, which a text reader reads with the text."""

import re

# Endings of sites' names; a dot within a word is mostly a space that a reader has missed.
_ENDINGS = "com|net|org|example|co|cc|tv|io|me|info|cm|us|uk|in|app|gg|de|fr|es|it|ru|br"
_MARK = re.compile(
    rf"\W*(?:(?:https?://|www\.)\S+|@\w[\w.]{{4,}}|(?:[a-z0-9-]+\.)+(?:{_ENDINGS})(?:/\S*)?)\W*",
    re.IGNORECASE,
)


def is_watermark(word: str) -> bool:
    """Whether a word is a site's address or an account's name, `site.com` or `@name`.

    They say where a meme has been and nothing of what it says. A mail address is none.
    """
    return _MARK.fullmatch(word) is not None
