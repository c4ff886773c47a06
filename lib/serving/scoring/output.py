"""What is finished of a run, part by part, and the files that are made of it at the end."""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from lib.artifacts import atomic_path
from lib.serving.histograms import WORDS, Histograms
from lib.serving.scoring.tasks import ANSWER, NAMED, REASON

# The key of the files' metadata under which stands what they were made from.
MADE_FROM = b"made_from"
ROW_GROUP = 65_536
# The folder of parts that the output has been made of.
_USED = "used"


class Counts(NamedTuple):
    """How many rows were scored, and how many rejected."""

    scored: int
    rejected: int


def companions(out: Path) -> tuple[Path, Path]:
    """The files of the rejected rows and of the histograms beside the scores."""
    names = (f"{out.stem}.rejected.parquet", f"{out.stem}.histograms.json")
    return out.with_name(names[0]), out.with_name(names[1])


class Output:
    """The scores' file, its companions, and the folder of parts beside it.

    `job` says what they are made from: parts and files of another job do not count. The parts lie
    in a folder of their job's own, so that those of two jobs cannot mix.
    """

    def __init__(self, file: str | Path, job: Mapping[str, Any]) -> None:
        self.file = Path(file)
        self.rejected, self.histograms = companions(self.file)
        self.folder = self.file.with_name(f"{self.file.name}.parts")
        self.job = json.dumps(job, sort_keys=True)
        self.parts = self.folder / str(job["fingerprint"])

    def finished(self) -> Counts | None:
        """The counts of a finished output of this job, None where there is none."""
        scored, rejected = (_rows_of(file, self.job) for file in (self.file, self.rejected))
        if scored is None or rejected is None or not self.histograms.exists():
            return None
        return Counts(scored, rejected)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other runs from the parts meanwhile; ValueError where one has them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(
                    f"another run is writing {self.file}; wait for it or give another --out"
                ) from None
            yield

    def drop_others(self) -> bool:
        """Remove the parts of other jobs; whether there were any."""
        others = [path for path in self.folder.iterdir() if path.is_dir() and path != self.parts]
        for path in others:
            shutil.rmtree(path)
        return any(path.name != _USED for path in others)

    def done(self) -> dict[str, int]:
        """The number of rows of each part there is, by the name of its task."""
        if not self.parts.is_dir():
            return {}
        found = sorted(self.parts.glob("*.parquet"))
        return {path.stem: pq.read_metadata(path).num_rows for path in found}

    def drop_rejected(self) -> None:
        """Remove the parts in which a row was rejected: the reason may have passed."""
        for path in self.parts.glob("*.parquet"):
            reasons = pq.read_table(path, columns=["reason"])["reason"]
            if reasons.null_count < len(reasons):
                path.unlink()

    def keep(self, name: str, rows: pa.Table) -> None:
        """Write a part at once."""
        with atomic_path(self.parts / f"{name}.parquet") as new:
            pq.write_table(rows, new)

    def remove_parts(self) -> None:
        # All at once, or some that a kill leaves would be taken for those of a run begun anew.
        used = self.folder / _USED
        shutil.rmtree(used, ignore_errors=True)
        if self.parts.is_dir():
            self.parts.rename(used)
        shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self, n_parts: int, models: Mapping[str, str], of_shards: bool) -> Counts:
        """Put the parts together in their order, a row group in memory at a time.

        The column `shard` is there where the rows are `of_shards`. The scores come last: where
        they stand, the other two files do.
        """
        parts = sorted(self.parts.glob("*.parquet"), key=_numbers)
        if len(parts) != n_parts:
            raise RuntimeError(f"{self.parts} has {len(parts)} parts of {n_parts}")
        histograms = Histograms(models)
        with contextlib.ExitStack() as written:
            # Left in the opposite order: histograms, rejected, scores.
            named = {name: kind for name, kind in NAMED.items() if of_shards or name != "shard"}
            scores = written.enter_context(self._file(self.file, named | ANSWER))
            rejected = written.enter_context(self._file(self.rejected, named | REASON))
            n = 0
            for path in tqdm(parts, "joining", unit=" parts", delay=2):
                rows = pq.read_table(path)
                rows = rows.add_column(0, "row", pa.array(range(n, n + len(rows)), pa.int64()))
                n += len(rows)
                bad = pc.is_valid(rows["reason"])
                good = rows.filter(pc.invert(bad))
                scores.add(good)
                rejected.add(rows.filter(bad))
                _count(histograms, good)
            histograms.write(self.histograms)
        return Counts(scores.n, rejected.n)

    @contextlib.contextmanager
    def _file(self, file: Path, columns: Mapping[str, pa.DataType]) -> Iterator["_Writer"]:
        schema = pa.schema({"row": pa.int64(), **columns}, {MADE_FROM: self.job.encode()})
        with atomic_path(file) as new, pq.ParquetWriter(new, schema) as parquet:
            writer = _Writer(parquet, schema)
            yield writer
            writer.flush()


class _Writer:
    """Gathers tables and writes them in row groups of `ROW_GROUP` rows."""

    def __init__(self, parquet: pq.ParquetWriter, schema: pa.Schema) -> None:
        self.parquet, self.schema = parquet, schema
        self.waiting: list[pa.Table] = []
        self.n = self.written = 0

    def add(self, rows: pa.Table) -> None:
        self.waiting.append(rows.select(self.schema.names).replace_schema_metadata())
        self.n += len(rows)
        if self.n - self.written >= ROW_GROUP:
            self.flush(ROW_GROUP)

    def flush(self, at_most: int | None = None) -> None:
        if self.waiting:
            rows = pa.concat_tables(self.waiting)
            now = rows if at_most is None else rows.slice(0, at_most)
            self.parquet.write_table(now.cast(self.schema), row_group_size=ROW_GROUP)
            self.written += len(now)
            self.waiting = [rows.slice(len(now))]


def _count(histograms: Histograms, rows: pa.Table) -> None:
    words = {name: [str(word) for word in rows[name].to_pylist()] for name in WORDS}
    histograms.add_columns(rows["prob_hate"].to_numpy(), rows["text_length"].to_numpy(), words)


def made_from(file: Path) -> dict[str, Any]:
    """The job that a file of scores is from; empty for any other Parquet file.

    Raises ValueError for a file that is none.
    """
    try:
        found = pq.read_metadata(file).metadata or {}
    except pa.ArrowInvalid:
        raise ValueError(f"{file} is not a Parquet file") from None
    return json.loads(found.get(MADE_FROM, b"{}"))


def _numbers(part: Path) -> list[int]:
    """The place of a part: of very many the numbers have more digits than the first ones."""
    return [int(number) for number in part.stem.split("-")]


def _rows_of(file: Path, job: str) -> int | None:
    """The rows of a Parquet file that was made by a job, else None."""
    try:
        if not file.is_file() or made_from(file) != json.loads(job):
            return None
    except ValueError:  # no Parquet file, hence not this job's
        return None
    return pq.read_metadata(file).num_rows
