"""Packed shards as samples: random access for training, a webdataset stream for one pass."""

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
import webdataset as wds
from PIL import Image

from lib.commands import again
from lib.data.pictures import blank_picture
from lib.data.shard_index import SCHEMA, decode_metadata, open_index, require_parts


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
    image is `blank_picture`. With `transform`, an item is what it makes of that. Nothing is held in
    memory: `lib.data.shard_index` says where all lies, and processes share its pages.
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
        self._shards = [str(shard) for shard in shards]
        self._open()
        ids = self._column("id")
        if pc.count_distinct(ids).as_py() < len(ids):
            repeated = pd.Index(ids.to_pylist())
            raise ValueError(
                f"id '{repeated[repeated.duplicated()][0]}' occurs twice in the shards; "
                f"pack again: {again(3)}"
            )

    def _open(self) -> None:
        self._batches = [indexed.rows for indexed in open_index(self._shards)]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=int)

    def __getstate__(self) -> dict[str, Any]:
        """What a worker that is started anew needs: it opens the index itself."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_batches", "_ends")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    @property
    def ids(self) -> list[str]:
        return self._column("id").to_pylist()

    @property
    def labels(self) -> list[int]:
        return self._column("label").to_pylist()

    @property
    def groups(self) -> list[str]:
        """The name of each meme's group; a meme packed without one is alone."""
        return self._column("group").to_pylist()

    @property
    def texts(self) -> list[str]:
        return self._column("text").to_pylist()

    @property
    def metas(self) -> Sequence[dict[str, Any]]:
        """The packed JSON of each meme, decoded when it is looked at."""
        return _Metas(self)

    def frame(self) -> pd.DataFrame:
        """One row a meme: id, split, dataset, text, label, and every packed field beyond these."""
        rows = [
            meta | {"text": text, "label": meta["labels"]["abuse_hate"]}
            for meta, text in zip(self.metas, self.texts, strict=True)
        ]
        return pd.DataFrame(rows)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Any:
        batch, row = self._place(index)
        meta = json.loads(self._batches[batch]["meta"][row].as_py())
        sample = {
            "id": meta["id"],
            "text": self._batches[batch]["text"][row].as_py(),
            "label": meta["labels"]["abuse_hate"],
            "meta": meta,
        }
        if self.pictures:
            sample["image"] = self._picture(batch, row)
        return self.transform(sample) if self.transform else sample

    @property
    def with_picture(self) -> list[int]:
        """The indices of the memes that have a picture."""
        return np.flatnonzero(self._column("size").is_valid().to_numpy()).tolist()

    def _column(self, name: str) -> pa.ChunkedArray:
        return pa.chunked_array([b[name] for b in self._batches], SCHEMA.field(name).type)

    def _place(self, index: int) -> tuple[int, int]:
        """The batch of a meme, and its row there."""
        index = range(len(self))[index]
        batch = int(np.searchsorted(self._ends, index, side="right"))
        return batch, index - int(self._ends[batch]) + self._batches[batch].num_rows

    def _picture(self, batch: int, row: int) -> Image.Image:
        offset, size, key = (
            self._batches[batch][k][row].as_py() for k in ("offset", "size", "key")
        )
        if size is None:
            return blank_picture()
        with open(self._shards[batch], "rb") as stream:
            stream.seek(offset)
            return decode_picture(stream.read(size), f"{self._shards[batch]}:{key}.png")


class _Metas(Sequence):
    def __init__(self, memes: MemeShards) -> None:
        self._memes = memes

    def __len__(self) -> int:
        return len(self._memes)

    def __getitem__(self, index: Any) -> Any:
        batch, row = self._memes._place(index)
        return json.loads(self._memes._batches[batch]["meta"][row].as_py())


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


def _decode(sample: Mapping[str, Any], pictures: bool) -> dict[str, Any]:
    where = f"{sample['__url__']}:{sample['__key__']}"
    require_parts(sample, where)
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
