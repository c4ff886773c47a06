"""What small changes to a meme do to the decisions: the perturbations and their effect."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter, ImageOps
from sklearn.metrics import f1_score
from tqdm import tqdm

from lib.config import MODELS
from lib.decision import DecisionBundle
from lib.fusion import FusionModel, model_logits
from lib.metrics import expected_calibration_error
from lib.temperature import prob_hate

Text = Callable[[str, np.random.Generator], str]

LEET = str.maketrans("aeiost", "@31057")


def _on_words(change: Callable[[str, np.random.Generator], str]) -> Text:
    """Apply a change to the words of a packed text, its markers left alone."""

    def changed(text: str, rng: np.random.Generator) -> str:
        words = (w if _is_marker(w) else change(w, rng) for w in text.split())
        return " ".join(word for word in words if word)

    return changed


def _is_marker(word: str) -> bool:
    return word in ("[OCR]", "[/OCR]", "[CAP]", "[/CAP]") or word.startswith("<lang=")


def _swapped(word: str, rng: np.random.Generator) -> str:
    """Swap two neighbouring letters in about a third of the words."""
    if len(word) < 4 or rng.random() > 1 / 3:
        return word
    at = int(rng.integers(1, len(word) - 2))
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


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


def robustness_table(
    model: FusionModel,
    samples: Sequence[Mapping[str, Any]],
    decision: DecisionBundle,
    seed: int = 0,
) -> pd.DataFrame:
    """The three models on perturbed memes, against the same memes as they are.

    `samples` are items of `MemeShards`. One row a perturbation and model: macro-F1 at the chosen
    threshold, its change, the change in ECE after calibration, and `flips`, how many decisions
    turned over. A text perturbation runs only the text encoder anew, an image one only the image
    encoder. Raises ValueError if `samples` is empty.
    """
    if not samples:
        raise ValueError("robustness needs at least one meme")
    texts, images = [s["text"] for s in samples], [s["image"] for s in samples]
    labels = np.array([s["label"] for s in samples])
    plain = _encode(model, texts, images, "unperturbed")
    before = _judge(model, plain, labels, decision)
    rows = _rows("none", before, before)
    for name, change in TEXT_PERTURBATIONS.items():
        rng = np.random.default_rng(seed)
        changed = _encode(model, [change(text, rng) for text in texts], None, name)
        rows += _rows(name, _judge(model, plain | changed, labels, decision), before)
    for name, change in IMAGE_PERTURBATIONS.items():
        changed = _encode(model, None, [change(image) for image in images], name)
        rows += _rows(name, _judge(model, plain | changed, labels, decision), before)
    return pd.DataFrame(rows)


@torch.inference_mode()
def _encode(
    model: FusionModel,
    texts: Sequence[str] | None,
    images: Sequence[Image.Image] | None,
    name: str,
    batch_size: int = 32,
) -> dict[str, torch.Tensor]:
    """Encode the given modalities; all texts in one batch width, so that token axes agree."""
    tokens = model.head.config.head == "cross_attention"
    encoders, parts = model.encoders, {}
    n = len(texts if texts is not None else images)
    for start in tqdm(range(0, n, batch_size), desc=name, leave=False):
        part = slice(start, start + batch_size)
        encoded = {}
        if texts is not None:
            padding = "max_length" if tokens else "longest"
            encoded |= encoders.encode_texts(texts[part], tokens, padding)
        if images is not None:
            encoded |= encoders.encode_images(images[part], tokens)
        for key, value in encoded.items():
            parts.setdefault(key, []).append(value)
    return {key: torch.cat(values) for key, values in parts.items()}


def _judge(
    model: FusionModel,
    encoded: Mapping[str, torch.Tensor],
    labels: np.ndarray,
    decision: DecisionBundle,
) -> dict[str, dict[str, Any]]:
    with torch.inference_mode():
        logits = model_logits(model.head, encoded)
    judged = {}
    for name in MODELS:
        prob = prob_hate(logits[name].double().cpu(), decision.temperatures[name])
        hate = prob >= decision.thresholds[name]
        judged[name] = {
            "hate": hate,
            "macro_f1": f1_score(labels, hate, average="macro", zero_division=0),
            "ece": expected_calibration_error(prob, labels),
        }
    return judged


def _rows(name: str, after: Mapping, before: Mapping) -> list[dict[str, Any]]:
    return [
        {
            "perturbation": name,
            "model": model,
            "n": len(after[model]["hate"]),
            "macro_f1": after[model]["macro_f1"],
            "macro_f1_change": after[model]["macro_f1"] - before[model]["macro_f1"],
            "ece_change": after[model]["ece"] - before[model]["ece"],
            "flips": int((after[model]["hate"] != before[model]["hate"]).sum()),
        }
        for model in MODELS
    ]
