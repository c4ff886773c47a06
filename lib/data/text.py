"""The packed text of a meme: the one text preparation, for training and for serving."""


def combined_text(ocr: str, caption: str = "", lang: str = "en") -> str:
    """The text of a meme, `[OCR] … [/OCR] [CAP] … [/CAP] <lang=en>`, white space collapsed."""
    words = ["[OCR]", *ocr.split(), "[/OCR]", "[CAP]", *caption.split(), "[/CAP]", f"<lang={lang}>"]
    return " ".join(words)


def packed(text: str) -> str:
    """The packed form of an overlaid text; a text that has it already stays as it is."""
    return text if text.startswith("[OCR]") else combined_text(text)


def is_marker(word: str) -> bool:
    """Whether a word of a packed text is one of its markers."""
    return word in ("[OCR]", "[/OCR]", "[CAP]", "[/CAP]") or word.startswith("<lang=")
