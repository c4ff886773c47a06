"""Whether a packing job is done already: told by its rows, its pictures' dates and its shards."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib.artifacts import fingerprint, write_text
from lib.data import confounders
from lib.data.example import Example, Rejected
from lib.data.packing.writing import digest_of
from lib.data.shard_index import shards_fingerprint

NOTE = "packed_as"


def job_of(rows: Sequence[Example | Rejected], **options: Any) -> str:
    """The fingerprint of rows, options and the code that packs; no picture is opened."""
    here = Path(confounders.__file__).parents[1]
    code = fingerprint(*sorted([*here.rglob("*.py"), *here.rglob("*.yaml")]))
    examples = digest_of((row for row in rows if isinstance(row, Example)), files=True)
    rejected = [[r.where, r.reason, r.id] for r in rows if isinstance(r, Rejected)]
    content = json.dumps([code, examples, rejected, options], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def note_finished(shards: Path, job: str) -> None:
    """Write which job the shards came from; the last file of a packing."""
    write_text(shards / NOTE, f"{job} {_bytes_of(shards)}\n")


def is_finished(shards: Path, job: str, *files: Path) -> bool:
    """Whether this very job has packed the shards that are there, and wrote `files`."""
    if not all(file.exists() for file in (shards / NOTE, *files)):
        return False
    # Cheap first: a job that changed needs no look at the shards
    noted = (shards / NOTE).read_text(encoding="utf-8").split()
    try:
        return noted[:1] == [job] and noted[1:] == [_bytes_of(shards)]
    except ValueError:  # a broken shard: packing again mends it
        return False


def _bytes_of(shards: Path) -> str:
    return shards_fingerprint(sorted(shards.glob("*/shard-*.tar")))
