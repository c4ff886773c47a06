"""How many decisions turn over, and what it costs, when a meme is changed a little."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from lib.artifacts import fingerprint, write_csv, write_json
from lib.calibration import decision_metrics, expected_calibration_error, prob_hate
from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.decisions.bundle import DecisionBundle
from lib.decisions.perturbations import IMAGE_PERTURBATIONS, TEXT_PERTURBATIONS
from lib.modeling.checkpoints import same_job
from lib.modeling.fusion import FusionModel, load_fusion, model_logits

CODE = Path(__file__).with_name("perturbations.py")


def robustness(settings: Settings, decision: DecisionBundle) -> pd.DataFrame:
    """The `robustness_table` of `settings.robustness_memes` memes of the reported split.

    It is written to `robustness_<m>.csv` of Step 7, and taken from there where models, decision,
    memes and perturbations are those it was made from.
    Raises FileNotFoundError where shards or models are missing.
    """
    memes = MemeShards(shard_paths(settings.shards, settings.report_split))
    rows = stratified_rows(memes.labels, settings.robustness_memes, settings.seed)
    job = {
        "models": decision.fingerprints,
        "temperatures": decision.temperatures,
        "thresholds": decision.thresholds,
        "memes": np.array(memes.ids)[rows].tolist(),
        "perturbations": [*TEXT_PERTURBATIONS, *IMAGE_PERTURBATIONS],
        # One that was edited under its old name is another.
        "code": fingerprint(CODE),
        "seed": settings.seed,
    }
    file = settings.artifact(7, "robustness.csv")
    made_from = settings.artifact(7, "robustness_made_from.json")
    if not (file.exists() and same_job(made_from, job)):
        sample = [memes[row] for row in rows]
        table = robustness_table(load_fusion(settings.models), sample, decision, settings.seed)
        write_csv(file, table)
        write_json(made_from, job)
    # Read back even so: the figures are the same whether kept or new.
    return pd.read_csv(file)


def stratified_rows(labels: Sequence[int], most: int, seed: int) -> list[int]:
    """At most `most` of N rows in order, drawn by seed, labels in proportion where they allow it.

    A sorted table's first rows would be of one class.
    """
    rows, y = np.arange(len(labels)), np.asarray(labels)
    if len(rows) <= most:
        return rows.tolist()
    counts = np.bincount(y, minlength=2)
    stratify = y if min(counts.min(), most, len(y) - most) >= 2 else None
    drawn, _ = train_test_split(rows, train_size=most, stratify=stratify, random_state=seed)
    return sorted(drawn.tolist())


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
    for name, redraw in IMAGE_PERTURBATIONS.items():
        changed = _encode(model, None, [redraw(image) for image in images], name)
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
    tokens = model.head.reads_tokens
    encoders = model.encoders
    parts: dict[str, list[torch.Tensor]] = {}
    n = len(texts if texts is not None else images or ())
    # Batches of like length: one long text would fill up a batch of short ones.
    order = np.argsort([len(text) for text in texts], kind="stable") if texts else np.arange(n)
    back = torch.from_numpy(np.argsort(order))
    for start in tqdm(range(0, n, batch_size), desc=name, leave=False):
        part = order[start : start + batch_size]
        encoded: dict[str, torch.Tensor] = {}
        if texts is not None:
            padding = "max_length" if tokens else "longest"
            encoded |= encoders.encode_texts([texts[row] for row in part], tokens, padding)
        if images is not None:
            encoded |= encoders.encode_images([images[row] for row in part], tokens)
        for key, value in encoded.items():
            parts.setdefault(key, []).append(value)
    return {key: torch.cat(values)[back] for key, values in parts.items()}


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
        prob = prob_hate(logits[name].cpu().double(), decision.temperatures[name])
        hate = prob >= decision.thresholds[name]
        judged[name] = {
            "hate": hate,
            "macro_f1": decision_metrics(hate, labels)["macro_f1"],
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
