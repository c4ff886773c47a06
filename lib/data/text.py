"""The packed text of a meme: the one text preparation, for training and for serving."""

MARKERS = ("[OCR]", "[/OCR]", "[CAP]", "[/CAP]", "[ASR]", "[/ASR]")


def combined_text(ocr: str, caption: str = "", lang: str = "en", asr: str = "") -> str:
    """The text of a meme, `[OCR] … [/OCR] [CAP] … [/CAP] <lang=en>`, white space collapsed.

    A transcript of its sound, `asr`, stands as `[ASR] … [/ASR]` before the language; a meme
    without one has no such markers.
    """
    words = ["[OCR]", *ocr.split(), "[/OCR]", "[CAP]", *caption.split(), "[/CAP]"]
    if asr.strip():
        words += ["[ASR]", *asr.split(), "[/ASR]"]
    return " ".join([*words, f"<lang={lang}>"])


def packed(text: str) -> str:
    """The packed form of an overlaid text; a text that has it already stays as it is."""
    return text if text.startswith("[OCR]") else combined_text(text)


def is_marker(word: str) -> bool:
    """Whether a word of a packed text is one of its markers."""
    return word in MARKERS or word.startswith("<lang=")


def words_of(text: str) -> str:
    """The words of a packed text without its markers."""
    return " ".join(word for word in text.split() if not is_marker(word))
