"""Which examples a run reads: a public data set's, a user's own, or generated ones."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from lib.config import Settings
from lib.data.confounders.design import generate
from lib.data.corrections import Correction, corrections_for
from lib.data.example import Example, Rejected, Unmatched
from lib.data.loose_pictures import DRAFT
from lib.data.readers.manifest import MANIFEST, read_manifest
from lib.data.readers.registry import READERS


def examples_for(settings: Settings) -> Iterable[Example | Rejected | Unmatched | Correction]:
    """The examples that `settings` ask for, read as they are consumed.

    `settings.dataset` names readers of `lib.data.readers`, separated by commas; each finds its
    files in `settings.data` (default `Datasets/` under the root) or the subfolder of its name.
    "manifest" is the user's own `Datasets/` and `Step_2/`, "confounders" the generated memes,
    "auto" the manifest if `settings.data` is given or the root has one, else the generated. Behind
    a manifest's memes come the ids of its texts that match none.
    Last come the corrections in `Step_2/` of the root and of `settings.data`.
    Raises ValueError for an unknown name, for data that would not be read and for a broken
    correction, and FileNotFoundError if the data are not there.
    """
    names = [name.strip() for name in settings.dataset.split(",")]
    if names == ["auto"]:
        own = settings.data is not None or (settings.root / MANIFEST).is_file()
        names = ["manifest" if own else "confounders"]
    if names == ["confounders"] and _holds_memes(settings.data):
        raise ValueError(
            f"setting data: nothing would be read from {settings.data}, as dataset=confounders "
            "generates its memes; set dataset to auto or to the data set's name, or leave out data"
        )
    sources = [_from_source(name, settings) for name in names]
    return itertools.chain(*sources, corrections_for(settings))


def _holds_memes(data: Path | None) -> bool:
    """Whether a folder of data was given that has more in it than corrections, or is not there."""
    if data is None:
        return False
    beside = data.is_dir() and {file.name for file in data.iterdir()} <= {"Step_2"}
    return not beside or (data / MANIFEST).is_file()


def _from_source(name: str, settings: Settings) -> Iterable[Example | Rejected | Unmatched]:
    if name == "confounders":
        return generate(
            settings.n_memes, settings.seed, settings.captions, splits=settings.mode == "full"
        )
    if name == "manifest":
        folder = settings.data or settings.root
        _require_manifest(folder)
        return _with_unmatched(folder)
    if name not in READERS:
        known = ["auto", "confounders", "manifest", *sorted(READERS)]
        raise ValueError(f"setting dataset: there is no {name!r}; known: {', '.join(known)}")
    folder = settings.data or settings.root / "Datasets"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; set data to the folder of {name}")
    return READERS[name](folder / name if (folder / name).is_dir() else folder)


def _require_manifest(folder: Path) -> None:
    if (folder / MANIFEST).is_file():
        return
    known = f"name it in the setting dataset: {', '.join(sorted(READERS))}"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"the folder {folder} does not exist; give one with {MANIFEST}, or that of a public "
            f"data set, and {known}"
        )
    if (folder / DRAFT).is_file():
        raise FileNotFoundError(
            f"{folder / MANIFEST} does not exist, but its draft does: set abuse_hate to 0 or 1 on "
            f"each line of {DRAFT.name} and rename it to {MANIFEST.name}"
        )
    raise FileNotFoundError(
        f"{folder / MANIFEST} does not exist; if {folder} holds a public data set, {known}"
    )


def _with_unmatched(folder: Path) -> Iterator[Example | Rejected | Unmatched]:
    yield from (yield from read_manifest(folder))
