"""A folder of pictures without a manifest, on its way to becoming one that Step 3 reads."""

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lib.data.growing_jsonl import growing_jsonl
from lib.data.readers.manifest import MANIFEST, ids_in

DRAFT = MANIFEST.with_name("data_manifest.draft.jsonl")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".gif"),
    *(".webp", ".bmp", ".tif", ".tiff", ".avif"),
)


def loose_pictures(data_dir: str | Path) -> dict[str, Path]:
    """The pictures below `Datasets/` by id, which is their path there, in the order of names.

    Where `Datasets/` has none, those of the folder itself are linked into it, or copied if the disk
    knows no links. `Step_2/data_manifest.draft.jsonl` gets a line for each that it lacks, its label
    null, but for names that are not UTF-8. Raises FileNotFoundError if there is no picture.
    """
    data_dir = Path(data_dir)
    datasets = data_dir / "Datasets"
    own = data_dir.resolve().name or "own"
    # Its own folder alone there is what an earlier call made, and that may have been killed.
    if not datasets.is_dir() or os.listdir(datasets) in ([], [own]):
        _link_pictures(data_dir, datasets / own)
    names = _pictures(datasets)
    if not names:
        raise FileNotFoundError(
            f"{data_dir} holds neither {MANIFEST} nor pictures ({', '.join(SUFFIXES)})"
        )
    known = ids_in(data_dir / DRAFT)
    with growing_jsonl(data_dir / DRAFT) as add:
        for name in names:
            if name not in known and is_utf8(name):
                add(_draft_row(name, own))
    return {name: datasets / name for name in names}


def is_utf8(name: str) -> bool:
    """Whether a file's name can be written; older archives hold names in other encodings."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _draft_row(name: str, own: str) -> dict[str, Any]:
    first, _, rest = name.partition("/")
    dataset = first if rest else own
    return {"id": name, "dataset": dataset, "image": name, "labels": {"abuse_hate": None}}


def _link_pictures(data_dir: Path, target: Path) -> None:
    for name in _pictures(data_dir, left_out=("Datasets", "Step_2")):
        link = target / name
        if link.exists():
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(data_dir / name, link)
        except OSError:
            shutil.copyfile(data_dir / name, link)


def _pictures(folder: Path, left_out: Collection[str] = ()) -> list[str]:
    """The paths of the pictures below a folder, without hidden ones and the folders `left_out`."""
    found = []
    for place, folders, files in os.walk(folder):
        skipped = left_out if Path(place) == folder else ()
        folders[:] = [name for name in folders if name[0] != "." and name not in skipped]
        for name in files:
            if name[0] != "." and name.lower().endswith(SUFFIXES):
                found.append(Path(place, name).relative_to(folder).as_posix())
    return sorted(found)
