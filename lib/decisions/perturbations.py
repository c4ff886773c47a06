"""Small changes to a meme's text or picture. To add one, add an entry to its table."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from lib.data.text import is_marker

Text = Callable[[str, np.random.Generator], str]

LEET = str.maketrans("aeiost", "@31057")

# What a text reader takes for what.
MISREAD = (("rn", "m"), ("cl", "d"), ("l", "I"), ("i", "1"), ("o", "0"), ("e", "c"), ("u", "v"))


def _on_words(change: Callable[[str, np.random.Generator], str]) -> Text:
    """Apply a change to the words of a packed text, its markers left alone."""

    def changed(text: str, rng: np.random.Generator) -> str:
        words = (w if is_marker(w) else change(w, rng) for w in text.split())
        return " ".join(word for word in words if word)

    return changed


def _swapped(word: str, rng: np.random.Generator) -> str:
    """Swap two neighbouring letters in about a third of the words."""
    if len(word) < 4 or rng.random() > 1 / 3:
        return word
    at = int(rng.integers(1, len(word) - 2))
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _misread(word: str, rng: np.random.Generator) -> str:
    """Confuse one pair of look-alike letters in about half of the words, as a text reader does."""
    if rng.random() > 1 / 2:
        return word
    found = [wrong for wrong in MISREAD if wrong[0] in word]
    if not found:
        return word
    seen, read = found[int(rng.integers(len(found)))]
    return word.replace(seen, read, 1)


def _watermarked(text: str, rng: np.random.Generator) -> str:
    """Let the text reader find a site's mark at the picture's edge too."""
    words = text.split()
    end = next((i for i, word in enumerate(words) if word == "[/OCR]"), len(words))
    return " ".join([*words[:end], "memes.example", *words[end:]])


def _jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=15)
    return Image.open(buffer).convert("RGB")


def _small(image: Image.Image) -> Image.Image:
    return image.resize((96, 96), Image.Resampling.BILINEAR).resize(image.size)


# The last two take a modality away: how far the decisions rest on it alone.
TEXT_PERTURBATIONS: dict[str, Text] = {
    "text: upper case": _on_words(lambda word, rng: word.upper()),
    "text: typos": _on_words(_swapped),
    "text: leetspeak": _on_words(lambda word, rng: word.translate(LEET)),
    "text: misread": _on_words(_misread),
    "text: watermark": _watermarked,
    "text: one word in five lost": _on_words(lambda word, rng: word if rng.random() > 0.2 else ""),
    "text: removed": _on_words(lambda word, rng: ""),
}
IMAGE_PERTURBATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "image: mirrored": ImageOps.mirror,
    "image: grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "image: JPEG quality 15": _jpeg,
    "image: blurred": lambda image: image.filter(ImageFilter.GaussianBlur(3)),
    "image: seen at 96 pixels": _small,
    "image: removed": lambda image: Image.new("RGB", image.size, (128, 128, 128)),
}
