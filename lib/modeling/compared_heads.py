"""The scores of heads already compared, kept on disk, so that a killed comparison goes on."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from lib.artifacts import fingerprint, read_json, write_json
from lib.commands import again
from lib.config import Settings
from lib.modeling.features import Features
from lib.modeling.heads import FusionConfig

# The settings that decide, beside features and configuration, what a head becomes.
KNOBS = ("fusion_epochs", "fusion_lr", "fusion_l2", "select_by")
# And the code: a head that was edited under its old name is another.
CODE = tuple(
    Path(__file__).with_name(name)
    for name in ("fusion_training.py", "heads.py", "rows.py", "stacking.py")
)


class ComparedHeads:
    """Scores by head and seed in a folder, under a name made of all that decides them."""

    def __init__(self, settings: Settings, train: Features, val: Features | None) -> None:
        self.folder = settings.features
        self.knobs = {name: getattr(settings, name) for name in KNOBS} | {
            "code": fingerprint(*CODE)
        }
        self.sets = [train] if val is None else [train, val]
        self.digests: list[dict[str, str]] = [{} for _ in self.sets]

    def has(self, config: FusionConfig, seed: int) -> bool:
        """Whether an equal head was scored before."""
        return self._file(config, seed).exists()

    def keep(self, config: FusionConfig, seed: int, scores: Mapping[str, float]) -> None:
        """Write the scores of a head; what is no number comes back as NaN."""
        finite = {name: s if math.isfinite(s) else None for name, s in scores.items()}
        write_json(self._file(config, seed), finite)

    def scores(self, config: FusionConfig, seed: int) -> dict[str, float]:
        """The scores that `keep` wrote. Raises FileNotFoundError where there are none."""
        found = read_json(self._file(config, seed), again(5)).items()
        return {name: math.nan if score is None else score for name, score in found}

    def key(self, config: FusionConfig, seed: int) -> str:
        """What tells a head, its seed and all that it learns from and is scored on from others."""
        read = [
            self._digest(number, name)
            for number in range(len(self.sets))
            for name in ("labels", *dict.fromkeys((*config.inputs, *config.reads)))
        ]
        job = {"config": config.model_dump(), "seed": seed, "features": read} | self.knobs
        return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]

    def _file(self, config: FusionConfig, seed: int) -> Path:
        return self.folder / f"head-{config.head}-{self.key(config, seed)}.json"

    def _digest(self, number: int, name: str, rows: int = 4096) -> str:
        """SHA-256 over the bytes of one array, taken once."""
        known, features = self.digests[number], self.sets[number]
        if name not in known:
            array = features.labels if name == "labels" else features.arrays[name]
            known[name] = digest_of(name, array, rows)
        return known[name]


def digest_of(name: str, array: torch.Tensor, rows: int = 4096) -> str:
    """SHA-256 of an array's name, shape and bytes, `rows` of them in memory at a time."""
    digest = hashlib.sha256(f"{name} {tuple(array.shape)}".encode())
    for start in range(0, len(array), rows):
        digest.update(array[start : start + rows].contiguous().numpy().tobytes())
    return digest.hexdigest()
