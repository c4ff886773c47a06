"""What small changes of a meme do to the decisions as they stand, at three severities."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from torch.nn.functional import pad
from tqdm import tqdm

from lib.artifacts import fingerprint, write_csv, write_json
from lib.calibration import classification_metrics, prob_hate
from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.data.folding import folded
from lib.decisions.bundle import DecisionBundle
from lib.decisions.perturbations import CODE, IMAGE_PERTURBATIONS, TEXT_PERTURBATIONS, Perturbation
from lib.decisions.policy import CHOSEN, Policy
from lib.decisions.robustness_rows import rows_of_models
from lib.modeling.checkpoints import same_job
from lib.modeling.forks import in_forks
from lib.modeling.fusion import FusionModel, load_fusion, model_logits

# A picture takes several times as long as a text: of more memes than this, every second's.
ALL_PICTURES = 100
PLAIN = "none"
OWN_CODE = (Path(__file__), Path(__file__).with_name("robustness_rows.py"))

Encoded = dict[str, torch.Tensor]


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
        "policy": [decision.policy.allow, decision.policy.block],
        "memes": np.array(memes.ids)[rows].tolist(),
        "perturbations": [*TEXT_PERTURBATIONS, *IMAGE_PERTURBATIONS],
        # One that was edited under its old name is another.
        "code": [fingerprint(file) for file in (*CODE, *OWN_CODE)],
        "seed": settings.seed,
    }
    file = settings.artifact(7, "robustness.csv")
    made_from = settings.artifact(7, "robustness_made_from.json")
    if not (file.exists() and same_job(made_from, job)):
        sample = [memes[row] for row in rows]
        model = load_fusion(settings.models)
        table = robustness_table(model, sample, decision, settings.seed, settings.workers)
        # Killed between the two, a table must not be taken for what it was before.
        made_from.unlink(missing_ok=True)
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
    workers: int = 0,
) -> pd.DataFrame:
    """The three models on perturbed memes, against the same memes as they are ("none").

    `samples` are items of `MemeShards`. One row a perturbation, severity and model: `macro_f1` at
    the chosen threshold, `auroc` and `ece` after calibration, each with its change and that one's
    95% bootstrap interval over groups (NaN where it is); `flips`, the memes on the other side of
    the threshold; and `block_to_allow`, the share of blocked memes that are allowed now, NaN where
    none was blocked, with its interval. `decided_by` says by what: fusion's "policy" where
    that both blocks and allows, else the "threshold" alone, as for an expert, which has no policy.
    Worst for fusion's macro-F1 first; perturbations that may change a label stand apart, at the
    end. A text perturbation runs only the text encoders anew, an image one only the image encoders,
    and an item that came out as it was is not encoded again.
    Of more than `ALL_PICTURES` memes every second picture is perturbed, and its changes are against
    the same memes as they are: "none" then has rows of both `n`, all memes first. On a CPU
    `workers` perturbations are tried at a time.
    Raises ValueError if `samples` is empty.
    """
    if not samples:
        raise ValueError("robustness needs at least one meme")
    labels = np.array([s["label"] for s in samples])
    groups = pd.DataFrame({"group": [s["meta"]["group"] for s in samples], "label": labels})
    texts, images = modalities_of(model, samples)
    every = 2 if len(samples) > ALL_PICTURES else 1
    modalities = (
        (TEXT_PERTURBATIONS, texts, images, 1),
        (IMAGE_PERTURBATIONS, images, texts, every),
    )
    rows: list[dict[str, Any]] = []
    total = sum(len(p.levels) for table, *_ in modalities for p in table.values())
    bar = tqdm(desc="perturbing", total=total)
    for table, changed, other, step in modalities:
        judge = partial(_judge, model, labels=labels[::step], decision=decision)
        kept = _every(other.plain, step)
        before = judge(kept | _every(changed.plain, step))
        rows_of = partial(rows_of_models, before=before, memes=groups[::step], seed=seed)
        if not rows or step > 1:
            rows += rows_of(PLAIN, 0, False, before)
        jobs = [(name, severity) for name, p in table.items() for severity in p.levels]
        how = partial(_judged_anew, table, changed, kept, judge, seed, step)
        found = in_forks(how, jobs, workers)
        for (name, severity), after in zip(jobs, found, strict=True):
            rows += rows_of(name, severity, table[name].may_change_label, after)
            bar.update()
    bar.close()
    return _worst_first(pd.DataFrame(rows))


def _judged_anew(
    table: Mapping[str, Perturbation],
    changed: "Modality",
    kept: Encoded,
    judge: Callable[[Encoded], dict[str, dict[str, Any]]],
    seed: int,
    step: int,
    name: str,
    severity: int,
) -> dict[str, dict[str, Any]]:
    return judge(kept | changed.perturbed(table[name], severity, seed, step))


def modalities_of(
    model: FusionModel, samples: Sequence[Mapping[str, Any]]
) -> tuple["Modality", "Modality"]:
    """Texts and pictures of items of `MemeShards`, each encoded by its own encoders alone."""
    texts, images = ([sample[key] for sample in samples] for key in ("text", "image"))
    return (
        Modality(texts, partial(_encode_texts, model), _shown(model)),
        Modality(images, partial(_encode_images, model), _digest),
    )


class Modality:
    """The texts or the pictures of some memes, and what the encoders make of them as they are.

    Two items of equal `content` are the same to the encoders, and encoded once.
    """

    def __init__(
        self,
        items: Sequence[Any],
        encode: Callable[[Iterable[Any]], Encoded],
        content: Callable[[Any], Any],
    ) -> None:
        self._items, self._encode, self._content = items, encode, content
        self._rows: dict[Any, int] = {}
        places: list[int] = []
        self._kept = encode(self._unseen(items, self._rows, places))
        self.plain = _taken(self._kept, places)

    def perturbed(
        self, perturbation: Perturbation, severity: int, seed: int, step: int = 1
    ) -> Encoded:
        """What the encoders make of the changed items, every `step`-th alone.

        Those that they have not seen are encoded.
        """
        # A generator an item: what one draws changes nothing for the others.
        generators = np.random.default_rng(seed).spawn(len(self._items))
        pairs = zip(self._items[::step], generators[::step], strict=True)
        changed = (perturbation(item, rng, severity) for item, rng in pairs)
        places: list[int] = []
        found = self._encode(self._unseen(changed, dict(self._rows), places))
        return _taken(_below(self._kept, found), places)

    def _unseen(
        self, items: Iterable[Any], rows: dict[Any, int], places: list[int]
    ) -> Iterator[Any]:
        """The items that `rows` does not know yet; in the end `places` has the row of each item."""
        for item in items:
            content = self._content(item)
            if new := content not in rows:
                rows[content] = len(rows)
            places.append(rows[content])
            if new:
                yield item


def _shown(model: FusionModel) -> Callable[[str], str]:
    """What tells the texts apart that a model can tell apart."""
    sources = model.encoders.sources.values()
    folds = all(source.folding for source in sources if source.modality == "text")
    return folded if folds else str


def _digest(image: Image.Image) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


@torch.inference_mode()
def _encode_texts(model: FusionModel, texts: Iterable[str], batch_size: int = 32) -> Encoded:
    """In batches of like length: one long text would fill up a batch of short ones."""
    listed = list(texts)
    order = np.argsort([len(text) for text in listed], kind="stable")
    found: Encoded = {}
    for start in range(0, len(listed), batch_size):
        batch = [listed[row] for row in order[start : start + batch_size]]
        found = _below(found, model.encoders.encode_texts(batch, model.head.reads_tokens))
    return _taken(found, np.argsort(order).tolist())


@torch.inference_mode()
def _encode_images(model: FusionModel, images: Iterable[Image.Image]) -> Encoded:
    """A batch at a time, so that no more pictures than that are held."""
    # Activations of more would not fit a processor's cache: 32 take twice as long a picture.
    batch_size = 4 if model.device.type == "cpu" else 32
    found: list[Encoded] = []
    remaining = iter(images)
    while batch := list(islice(remaining, batch_size)):
        found.append(model.encoders.encode_images(batch, model.head.reads_tokens))
    return {key: torch.cat([part[key] for part in found]) for key in found[0]} if found else {}


def _taken(encoded: Encoded, places: Sequence[int]) -> Encoded:
    rows = torch.as_tensor(places, dtype=torch.long)
    return {key: tensor[rows.to(tensor.device)] for key, tensor in encoded.items()}


def _every(encoded: Encoded, step: int) -> Encoded:
    return {key: tensor[::step] for key, tensor in encoded.items()}


def _below(above: Encoded, below: Encoded) -> Encoded:
    """Rows of both, one under the other; texts of fewer tokens are filled up with zeros."""
    if not (above and below):
        return above or below
    return {key: torch.cat(_of_one_width(above[key], below[key])) for key in above}


def _of_one_width(*tensors: torch.Tensor) -> list[torch.Tensor]:
    if tensors[0].ndim == 1:
        return list(tensors)
    width = max(tensor.shape[1] for tensor in tensors)
    rest = (0, 0) * (tensors[0].ndim - 2)
    return [pad(tensor, (*rest, 0, width - tensor.shape[1])) for tensor in tensors]


def _judge(
    model: FusionModel, encoded: Encoded, labels: np.ndarray, decision: DecisionBundle
) -> dict[str, dict[str, Any]]:
    with torch.inference_mode():
        logits = model_logits(model.head, encoded)
    judged = {}
    for name in MODELS:
        prob = prob_hate(logits[name].cpu().double(), decision.temperatures[name])
        threshold = decision.thresholds[name]
        own = name == CHOSEN and None not in (decision.policy.allow, decision.policy.block)
        policy = decision.policy if own else Policy.at_threshold(threshold)
        judged[name] = {
            "prob": prob,
            "hate": prob >= threshold,
            "decided_by": "policy" if own else "threshold",
            "decision": policy.decide(prob),
            **classification_metrics(prob, labels, threshold),
        }
    return judged


def _worst_first(table: pd.DataFrame) -> pd.DataFrame:
    own = (table["model"] == CHOSEN) & (table["severity"] > 0)
    cost = table[own].set_index(["perturbation", "severity"])
    rank = cost["macro_f1_change"].rename("rank").reset_index()
    ranked = table.merge(rank, on=["perturbation", "severity"], how="left", validate="many_to_one")
    # The unperturbed memes first, whatever the rest did to them.
    ranked["rank"] = ranked["rank"].where(ranked["severity"] > 0, -np.inf)
    ranked = ranked.sort_values(["may_change_label", "rank"], kind="stable", ignore_index=True)
    return ranked.drop(columns="rank")
