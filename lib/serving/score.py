"""Score many memes: `python -m lib.serving.score INPUT --out scores.parquet`."""

import argparse
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from lib.artifacts import fingerprint
from lib.config import Settings
from lib.decisions.bundle import DecisionBundle
from lib.modeling.device import default_device
from lib.serving.engines.kept import engine_folder
from lib.serving.scoring.inputs import Input, Task
from lib.serving.scoring.output import Counts, Output, companions, made_from
from lib.serving.scoring.places import is_address
from lib.serving.scoring.pools import Cluster, run_tasks, workers_of
from lib.serving.scoring.rows import BLOCK, USUAL, Columns
from lib.serving.scoring.tasks import BATCH, Model

DECISION_FILES = ("calibration.json", "thresholds.json", "decision.json")
# How scores differ from those that are asked for, by what they are made from; of what has no values
# here there are fingerprints, which tell nobody anything.
_OTHER = {
    "input": "from another input",
    "columns": "with other columns ({before[columns]}, now {now[columns]})",
    "mode": "in another mode ({before[mode]}, now {now[mode]})",
    "models": "by other models",
    "decision": "by another decision",
    "engine": "by another engine ({before[engine]}, now {now[engine]})",
    "block": "in batches of another size",
}


def score(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path = "scores.parquet",
    *,
    root: str | Path | None = None,
    mode: Literal["pilot", "full"] = "pilot",
    device: str | None = None,
    engine: str | None = None,
    columns: Columns = USUAL,
    workers: int | None = None,
    threads: int = 1,
    cluster: Cluster | None = None,
    overwrite: bool = False,
) -> Counts:
    """Score a folder, a table or shards into `out`, and count the rows.

    Beside `out` come `<stem>.rejected.parquet`, the rows that could not be judged with the reason,
    and `<stem>.histograms.json`. Each row of the input is in one of the two tables, in the input's
    order. A killed call goes on where it stopped; a finished one does nothing. The answers do not
    depend on the number of workers (None: as many as there are cores, one on an accelerator).
    `overwrite` scores a finished input again, and replaces the scores of another.
    Raises FileNotFoundError or ValueError for an input that is none, an `out` of another input or
    other models (unless `overwrite`), one that is a folder or part of the input, and what
    `MemeClassifier.load` raises.
    """
    settings = Settings.model_validate({"mode": mode, "root": root})
    settings.guide()
    given = [inputs] if isinstance(inputs, str | Path) else inputs
    source = Input.of([_absolute(str(one)) if cluster else str(one) for one in given], columns)
    _refuse_place(Path(out), source)
    decision = DecisionBundle.load(settings)
    decision.verify(settings.models)
    model = Model(settings.root, mode, device, engine, threads)
    described, total = source.described()
    job = _job(described, columns, settings, decision, model)
    model = model._replace(job=job["fingerprint"])
    output = Output(out, job)
    counts = output.finished()
    if counts is not None and not overwrite:
        rejected = f", {counts.rejected:,} rejected rows too," if counts.rejected else ""
        _say(f"{out} is finished already; to score all of it again{rejected} say --overwrite")
        if output.folder.exists():
            # Another call may be scoring all of it again just now.
            with contextlib.suppress(ValueError), output.claimed():
                output.remove_parts()
        return counts
    if output.file.exists() and not overwrite:
        raise ValueError(
            f"{out} {_difference(output)}; to replace it say --overwrite, or give another --out"
        )
    if source.in_memory:
        workers, cluster = 1, None
    with output.claimed():
        if output.drop_others():
            said = "another input, other columns, models, decision or engine: starting anew"
            _say(f"{output.folder} is of {said}")
        if overwrite:
            output.drop_rejected()
        n_parts = _run(source, output, model, workers, cluster, total)
        counts = output.finish(n_parts, decision.judged_by, source.kind == "shards")
        output.remove_parts()
    return counts


def _difference(output: Output) -> str:
    """What tells a file of scores from those that were asked for."""
    try:
        before = made_from(output.file)
    except ValueError:
        before = {}
    if not before:
        return "was not made from this input by these models"
    now = json.loads(output.job)
    others = [words for name, words in _OTHER.items() if before.get(name) != now[name]]
    if not others:
        return "is of this input, but a file that belongs to it is missing or of another"
    before["columns"], now["columns"] = (_named(job.get("columns")) for job in (before, now))
    return f"was made {', '.join(others)}".format(before=before, now=now)


def _named(columns: Mapping[str, str | None] | None) -> str:
    """Columns as they are asked for."""
    asked = [f"--{part}-column {name}" for part, name in (columns or {}).items() if name]
    return " ".join(asked) or "the usual ones"


def _absolute(place: str) -> str:
    """A place as the nodes of a cluster find it, whose working folders are others."""
    return place if is_address(place) else os.path.abspath(place)


def _refuse_place(out: Path, source: Input) -> None:
    if out.is_dir():
        raise ValueError(f"{out} is a folder; --out needs a file, such as {out}/scores.parquet")
    places = {Path(place).resolve() for place in source.places}
    for file in (out, *companions(out)):
        if file.resolve() in places:
            raise ValueError(f"{file} is the input itself and would be written; give another --out")
    if out.suffix in (".csv", ".tsv", ".json", ".jsonl", ".txt", ".xlsx"):
        raise ValueError(f"{out}: scores are written as Parquet; name it {out.stem}.parquet")


def _run(
    source: Input,
    output: Output,
    model: Model,
    workers: int | None,
    cluster: Cluster | None,
    total: int | None,
) -> int:
    """Judge the tasks that have no part yet; the number of all tasks."""
    done = output.done()
    seen = 0

    def missing() -> Iterator[Task]:
        nonlocal seen
        for task in source.tasks():
            seen += 1
            if task.name not in done:
                yield task

    if done:
        _say(f"{sum(done.values()):,} rows are done already")
    device = model.device or default_device()
    workers = workers or workers_of(cluster, model.threads, device)
    with tqdm(desc="scoring", total=total, initial=sum(done.values()), unit=" memes") as progress:
        for name, rows in run_tasks(missing(), model, workers, cluster):
            output.keep(name, rows)
            progress.update(len(rows))
    return seen


def _job(
    described: str, columns: Columns, settings: Settings, decision: DecisionBundle, model: Model
) -> dict[str, Any]:
    """What the scores are made from."""
    made_from = {
        "input": described,
        "columns": columns._asdict(),
        "mode": settings.mode,
        "models": decision.judged_by,
        "decision": fingerprint(*(settings.artifact(7, name) for name in DECISION_FILES)),
        "engine": _engine(settings, model),
        "block": [BLOCK, BATCH],
    }
    content = json.dumps(made_from, sort_keys=True).encode()
    return made_from | {"fingerprint": hashlib.sha256(content).hexdigest()[:16]}


def _engine(settings: Settings, model: Model) -> str:
    """What runs the models: by name, or as it was measured and kept."""
    kept = engine_folder(settings) / "engine.json"
    name = model.engine or (fingerprint(kept) if kept.exists() else "float32")
    return f"{name} on {model.device or default_device()}"


def _say(words: str) -> None:
    print(words, file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Score a folder of pictures, a table of memes or WebDataset shards."""
    options = _parser().parse_args(arguments)
    columns = Columns(options.text_column, options.image_column, options.id_column)
    ray = options.ray or options.address is not None
    if options.gpus and not ray:
        _parser().error("--gpus is what a worker is given on Ray; say --ray or --address too")
    try:
        counts = score(
            options.input,
            options.out,
            root=options.root,
            mode=options.mode,
            device=options.device,
            engine=options.engine,
            columns=columns,
            workers=options.workers,
            threads=options.threads,
            cluster=Cluster(options.address, options.gpus) if ray else None,
            overwrite=options.overwrite,
        )
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"{options.out}: {counts.scored:,} memes scored, {counts.rejected:,} rejected")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.serving.score", description=main.__doc__)
    parser.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="a folder of pictures; a CSV, TSV, JSON Lines or Parquet file with the columns text "
        "and image; or .tar shards: files, brace patterns, addresses such as s3://",
    )
    parser.add_argument("--out", type=Path, default=Path("scores.parquet"))
    parser.add_argument("--mode", choices=("pilot", "full"), default="pilot")
    parser.add_argument("--root", type=Path, help="folder of the run; default: the project's")
    parser.add_argument("--device", help="where the models run; default: the accelerator, or cpu")
    parser.add_argument("--engine", help="what runs the encoders; default: what was measured best")
    parser.add_argument("--workers", type=_positive, help="default: one a core; one on a GPU")
    parser.add_argument("--threads", type=_positive, default=1, help="cores that a worker uses")
    for part in ("text", "image", "id"):
        parser.add_argument(f"--{part}-column", help=f"the column of the {part}, if not '{part}'")
    parser.add_argument("--ray", action="store_true", help="run on Ray Data (extra: ray)")
    parser.add_argument("--address", help="of a Ray cluster, or auto; implies --ray")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs a worker is given on Ray")
    parser.add_argument("--overwrite", action="store_true", help="replace the scores there are")
    return parser


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    main()
