"""Pack examples into Step_3/: the command line of lib.data.packing."""

import argparse
import sys
from pathlib import Path

from lib.config import Settings
from lib.data.packing.pack import pack
from lib.data.packing.statistics import check_both_labels
from lib.data.readers.registry import READERS
from lib.data.shard_index import verify_shards
from lib.data.sources import examples_for


def main(arguments: list[str] | None = None) -> int:
    given = vars(_parser().parse_args(arguments))
    limit, ray = given.pop("limit"), given.pop("ray")
    if given.pop("verify"):
        return verify(given["root"], given["mode"])
    if names := given.pop("dataset"):
        given["dataset"] = ",".join(names)
    if given["mode"] is None:
        # Names may be divided by commas, blanks or both.
        named = {name.strip() for name in given.get("dataset", "").split(",")}
        given["mode"] = "full" if named & set(READERS) else "pilot"
    given = {name: value for name, value in given.items() if value is not None}
    try:
        place = {name: given[name] for name in ("mode", "root") if name in given}
        saved = Settings.checked(place, "command line").saved_beside(given)
        settings = Settings.checked(saved | given, "command line")
        settings.guide()
        stats = pack(
            examples_for(settings),
            settings.step3,
            mode=settings.mode,
            seed=settings.seed,
            workers=settings.workers,
            ray=ray,
            limit=limit,
            overwrite=settings.overwrite,
            shard_size=settings.shard_size,
            taxonomy=settings.taxonomy,
        )
        settings.save()
        if settings.slice_by:
            # Here, since it loads torch, which the workers of packing need not.
            from lib.decisions.error_analysis import check_slice_by

            check_slice_by(settings)
    except (ValueError, OSError, ImportError) as error:
        print(f"pack_examples: {error}", file=sys.stderr)
        return 1
    for split, part in stats["splits"].items():
        print(f"{split}: {part['examples']} examples in {part['shards']} shards")
    for row in stats["skipped"]["rows"]:
        print(f"skipped {row['where']} {row['id']}: {row['reason']}")
    if corrections := stats.get("corrections"):
        fates = [f"{len(rows)} {fate.replace('_', ' ')}" for fate, rows in corrections.items()]
        print(f"corrections: {', '.join(fates)}")
    print(f"left out: {stats['unlabelled']['count']} without a label, ", end="")
    print(f"{stats['repeated_ids']['count']} repeated, {len(stats.get('dropped', ()))} leaking")
    try:
        check_both_labels(stats)
    except ValueError as error:  # behind what was skipped, which may be why
        print(f"pack_examples: {error}", file=sys.stderr)
        return 1
    return 0


def verify(root: Path | None, mode: str | None) -> int:
    """Compare the shards of a mode, or of both that are there, with what was written."""
    modes = (mode,) if mode else ("pilot", "full")
    places = [Settings.checked({"mode": each, "root": root}, "command line") for each in modes]
    there = [place for place in places if place.shards.exists()]
    faults = []
    try:
        for place in there or places:
            place.guide()
            faults += verify_shards(place.shards)
    except OSError as error:
        faults.append(str(error))
    for fault in faults:
        print(f"pack_examples: {fault}", file=sys.stderr)
    if not faults:
        print(f"the shards of {' and '.join(p.mode for p in there)} hold what was written")
    return int(bool(faults))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Pack memes into Step_3/shards/ with their splits, taxonomy and statistics. "
        "What is not given is as in the last run of this mode and root. Without --data and "
        "--dataset of one: the manifest under the root if there is one, else generated memes."
    )
    parser.add_argument(
        "--mode",
        choices=("pilot", "full"),
        help="pilot: 50 examples, all train; full: train, val and test. Default: full for a public "
        "data set, else pilot",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with Datasets/ and Step_2/, or the folder of a public data set",
    )
    parser.add_argument(
        "--dataset",
        nargs="+",
        metavar="NAME",
        help="auto, manifest, confounders, or public data sets by name (packed together)",
    )
    parser.add_argument("--n", dest="n_memes", type=int, help="how many memes to generate")
    parser.add_argument("--limit", type=int, help="pack at most this many good examples")
    parser.add_argument("--seed", type=int, help="of generation, of the split, and of the order")
    parser.add_argument("--workers", type=int, help="processes that read and draw pictures")
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="let the workers be those of a Ray cluster (extra: ray); local starts one here",
    )
    parser.add_argument("--shard-size", type=int, help="memes a shard at most")
    parser.add_argument("--overwrite", action="store_true", help="replace what a full run packed")
    parser.add_argument("--root", type=Path, metavar="DIR", help="write to DIR/Step_3")
    parser.add_argument(
        "--verify", action="store_true", help="pack nothing; read all shards and compare them"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
