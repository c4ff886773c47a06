"""Packed shards as samples: random access for training, a webdataset stream for one pass."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import webdataset as wds
from PIL import Image

from lib.commands import again
from lib.data.pictures import blank_picture


class _Member(NamedTuple):
    shard: str
    name: str
    offset: int
    size: int


def shard_paths(shards: str | Path, split: str) -> list[Path]:
    """The shards of one split in order, from the folder that holds `train/`, `val/` and `test/`.

    Raises FileNotFoundError naming the folder and the command that fills it.
    """
    found = sorted((Path(shards) / split).glob("shard-*.tar"))
    if not found:
        raise FileNotFoundError(
            f"no shard-*.tar in {Path(shards) / split}; pack it with: {again(3)}"
        )
    return found


class MemeShards(torch.utils.data.Dataset):
    """Random access to the memes of some shards, pictures read only when asked for.

    An item is `{"id", "text", "image", "label", "split", "meta"}`: `image` an RGB PIL picture,
    `label` 0 or 1 (`labels.abuse_hate`), `meta` the packed JSON. Where a meme has no picture the
    image is `blank_picture`. With `transform`, an item is what it makes of that. Texts and labels
    are held in memory; pictures never are.
    Raises ValueError naming shard, member and fault when a member is missing or broken, and when
    an id occurs twice.
    """

    def __init__(
        self,
        shards: Iterable[str | Path],
        transform: Callable[[dict[str, Any]], Any] | None = None,
        pictures: bool = True,
    ) -> None:
        self.transform = transform
        self.pictures = pictures
        self.metas: list[dict[str, Any]] = []
        self.texts: list[str] = []
        self._images: list[_Member | None] = []
        for shard in shards:
            self._index(str(shard))
        repeated = pd.Index(self.ids)[pd.Index(self.ids).duplicated()]
        if len(repeated):
            raise ValueError(
                f"id '{repeated[0]}' occurs twice in the shards; pack again: {again(3)}"
            )

    @property
    def ids(self) -> list[str]:
        return [meta["id"] for meta in self.metas]

    @property
    def labels(self) -> list[int]:
        return [meta["labels"]["abuse_hate"] for meta in self.metas]

    @property
    def groups(self) -> list[str]:
        """The name of each meme's group; a meme packed without one is alone."""
        return [str(meta.get("group") or f"alone {meta['id']}") for meta in self.metas]

    def frame(self) -> pd.DataFrame:
        """One row a meme: id, split, dataset, text, label, and every packed field beyond these."""
        rows = [
            meta | {"text": text, "label": meta["labels"]["abuse_hate"]}
            for meta, text in zip(self.metas, self.texts, strict=True)
        ]
        return pd.DataFrame(rows)

    def __len__(self) -> int:
        return len(self.metas)

    def __getitem__(self, index: int) -> Any:
        sample = {
            "id": self.metas[index]["id"],
            "text": self.texts[index],
            "label": self.metas[index]["labels"]["abuse_hate"],
            "meta": self.metas[index],
        }
        if self.pictures:
            sample["image"] = self._picture(self._images[index])
        return self.transform(sample) if self.transform else sample

    @property
    def with_picture(self) -> list[int]:
        """The indices of the memes that have a picture."""
        return [index for index, member in enumerate(self._images) if member is not None]

    def _picture(self, member: _Member | None) -> Image.Image:
        if member is None:
            return blank_picture()
        with open(member.shard, "rb") as stream:
            return decode_picture(_read(stream, member), f"{member.shard}:{member.name}")

    def _index(self, shard: str) -> None:
        with tarfile.open(shard) as tar:
            groups: dict[str, dict[str, _Member]] = {}
            for member in tar:
                key, _, kind = member.name.partition(".")
                place = _Member(shard, member.name, member.offset_data, member.size)
                groups.setdefault(key, {})[kind] = place
        with open(shard, "rb") as stream:
            for key, parts in groups.items():
                _require_parts(parts, f"{shard}:{key}")
                text, meta = (_read(stream, parts[kind]) for kind in ("txt", "json"))
                self.metas.append(decode_metadata(meta, f"{shard}:{key}.json"))
                self.texts.append(text.decode("utf-8"))
                self._images.append(parts.get("png"))


def stream(shards: Sequence[str | Path], pictures: bool = True) -> wds.WebDataset:
    """One ordered pass over shards through webdataset, split by node and by worker.

    Yields `{"id", "text", "image", "label", "meta"}` like `MemeShards`, without `pictures` no
    "image". Raises ValueError naming
    shard and member when one is missing or broken.
    """
    return wds.WebDataset(
        [str(shard) for shard in shards],
        shardshuffle=False,
        nodesplitter=wds.split_by_node,
        workersplitter=wds.split_by_worker,
        empty_check=False,
    ).map(partial(_decode, pictures=pictures))


def decode_picture(content: bytes, where: str) -> Image.Image:
    """Decode a packed picture to RGB; ValueError names `where` if it is broken."""
    try:
        return Image.open(io.BytesIO(content), formats=["PNG"]).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: broken picture ({error}); pack again: {again(3)}") from None


def decode_metadata(content: bytes, where: str) -> dict[str, Any]:
    """Decode a packed JSON; ValueError names `where` and the missing or impossible field."""
    try:
        meta = json.loads(content)
        label = meta["labels"]["abuse_hate"]
        meta["id"]
    except KeyError as error:
        raise ValueError(f"{where}: field {error} is missing; pack again: {again(3)}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{where}: not the packed JSON ({error}); pack again: {again(3)}"
        ) from None
    if label not in (0, 1):
        raise ValueError(f"{where}: labels.abuse_hate is {label!r}, expected 0 or 1")
    return meta


def _decode(sample: Mapping[str, Any], pictures: bool) -> dict[str, Any]:
    where = f"{sample['__url__']}:{sample['__key__']}"
    _require_parts(sample, where)
    meta = decode_metadata(sample["json"], f"{where}.json")
    decoded = {
        "id": meta["id"],
        "text": sample["txt"].decode("utf-8"),
        "label": meta["labels"]["abuse_hate"],
        "meta": meta,
    }
    if pictures and "png" in sample:
        decoded["image"] = decode_picture(sample["png"], f"{where}.png")
    elif pictures:
        decoded["image"] = blank_picture()
    return decoded


def _require_parts(parts: Mapping[str, Any], where: str) -> None:
    missing = [kind for kind in ("txt", "json") if kind not in parts]
    if missing:
        raise ValueError(f"{where}: no .{missing[0]} beside it; pack again: {again(3)}")


def _read(stream: io.BufferedReader, member: _Member) -> bytes:
    stream.seek(member.offset)
    return stream.read(member.size)
