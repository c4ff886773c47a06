"""Where features are kept: a file an encoder and shard, mapped into memory when it is read."""

import contextlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lib.artifacts import atomic_path
from lib.data.altered_pictures import ALTERED_PICTURES
from lib.data.shard_index import open_index
from lib.modeling import freed_memory
from lib.modeling.encoders import Encoders
from lib.modeling.model_files import is_whole

# What a cache file holds: token and patch states too, or one vector a meme and encoder.
KINDS = ("tokens", "pooled")
MODALITIES = ("text", "vision")

# How many encoders of texts, and of pictures, are kept: those of a run are two to five.
KEPT_ENCODERS = 8
KEPT_DAYS = 30


class FeatureCache:
    """The files `<modality>-<encoder>-<kind>/<shard>.safetensors` of some encoders and shards.

    Encoder and shard are fingerprints, so that changed weights or memes have other files.
    """

    def __init__(
        self,
        folder: Path,
        encoders: Encoders,
        shards: Sequence[str | Path],
        tokens: bool,
        altered: bool = False,
    ) -> None:
        self._folder, self._tokens = folder, tokens
        precision = "-bf16" if encoders.autocast else ""
        if altered:
            precision += f"-altered{ALTERED_PICTURES}"
        # The two towers of a dual encoder have the same weights.
        self._encoder = {
            name: f"{source.modality}-{source.fingerprint()}{precision}"
            for name, source in encoders.sources.items()
        }
        indexed = zip(shards, open_index(shards), strict=True)
        self._shard = {shard: found.sha256[:16] for shard, found in indexed}

    def file(self, name: str, shard: str | Path) -> Path:
        """The file of an encoder's features of a shard: one with tokens serves both kinds."""
        with_tokens, pooled = (
            self._folder / f"{self._encoder[name]}-{kind}" / f"{self._shard[shard]}.safetensors"
            for kind in KINDS
        )
        return with_tokens if self._tokens or with_tokens.exists() else pooled

    def holds(self, name: str, shard: str | Path) -> bool:
        """Whether an encoder's features of a shard are there; what is cut short is removed."""
        file = self.file(name, shard)
        if not file.exists():
            return False
        if is_whole(file):
            return True
        file.unlink()
        return self.holds(name, shard)

    def save(self, name: str, shard: str | Path, arrays: Mapping[str, torch.Tensor]) -> None:
        """Keep an encoder's features of a shard."""
        with atomic_path(self.file(name, shard)) as new:
            save_file(dict(arrays), new)
        freed_memory.give_back()

    def load(self, name: str, shard: str | Path) -> dict[str, torch.Tensor]:
        """An encoder's features of a shard, mapped: nothing is read before a row is used."""
        file = self.file(name, shard)
        _used(file)
        with safe_open(file, framework="pt") as stored:
            return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118

    def forget(self) -> None:
        """Remove what no run will read again.

        Of each modality and kind the `KEPT_ENCODERS` that were used last are kept, and of their
        files those that were read in the last `KEPT_DAYS` days.
        """
        for encoder in self._encoder.values():
            for folder in self._folder.glob(f"{encoder}-*"):
                _used(folder)
        oldest = time.time() - KEPT_DAYS * 24 * 3600
        for pattern in (f"{modality}-*-{kind}" for modality in MODALITIES for kind in KINDS):
            folders = sorted(self._folder.glob(pattern), key=_last_used, reverse=True)
            for folder in folders[KEPT_ENCODERS:]:
                shutil.rmtree(folder, ignore_errors=True)
            for file in (file for kept in folders for file in kept.glob("*.safetensors")):
                if _last_used(file) < oldest:
                    with contextlib.suppress(PermissionError):
                        file.unlink(missing_ok=True)


def _used(path: Path) -> None:
    # What another user has encoded may be read, and that is all
    with contextlib.suppress(PermissionError):
        os.utime(path)


def _last_used(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0
