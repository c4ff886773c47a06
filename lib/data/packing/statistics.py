"""What was packed and what was left out: `stats_<mode>.json` and its tables."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib.data.example import Example
from lib.data.packing.checking import Found, stratum_of
from lib.data.packing.writing import Shard
from lib.data.readers.registry import UNIFIED


def statistics_of(
    found: Found, plan: Sequence[Shard], report: Mapping[str, Any], made_from: Mapping[str, Any]
) -> dict[str, Any]:
    members: dict[str, list[Example]] = defaultdict(list)
    for shard in plan:
        members[shard.split].extend(shard.examples)
    return {
        **made_from,
        "splits": {
            split: {
                "examples": len(examples),
                "shards": sum(shard.split == split for shard in plan),
                "datasets": Counter(e.dataset for e in examples),
                "labels": {
                    name: Counter(_as_text(e.labels[name]) for e in examples)
                    for name in UNIFIED.labels
                },
            }
            for split, examples in members.items()
        },
        "skipped": {"count": len(found.skipped), "rows": found.skipped},
        "unlabelled": {"count": len(found.unlabelled), "ids": found.unlabelled},
        "repeated_ids": {"count": len(found.repeated), "ids": found.repeated},
        **({"sample": _sample(found)} if made_from["mode"] == "pilot" else {}),
        **report,
    }


def _sample(found: Found) -> dict[str, Any]:
    """What a pilot has taken of what there was, for each data set and label."""
    taken = Counter(map(stratum_of, found.good))
    there = taken + Counter(map(stratum_of, found.untaken))
    strata = [
        {"dataset": dataset, "abuse_hate": label, "taken": taken[dataset, label], "of": count}
        for (dataset, label), count in sorted(there.items())
    ]
    return {"taken": taken.total(), "of": there.total(), "strata": strata}


def _as_text(value: int | str | None) -> str:
    return "unknown" if value is None else str(value)


def check_both_labels(stats: Mapping[str, Any]) -> None:
    """Raise ValueError where `pack` has put memes of one label alone into train.

    It refuses that of a full run itself; a pilot may be packed to look at the memes.
    """
    counts = stats["splits"]["train"]["labels"]["abuse_hate"]
    for label in ("0", "1"):
        if not counts.get(label):
            raise ValueError(
                f"none of the {stats['splits']['train']['examples']} memes of train has abuse_hate "
                f"{label}, and the models need both labels to learn from; give memes of both"
            )


def stats_table(stats: Mapping[str, Any]) -> pd.DataFrame:
    """Of what `pack` returned: shards, memes, and how many of each label, a row a split."""
    rows = {
        split: {
            "shards": counts["shards"],
            "memes": counts["examples"],
            "non-hate": counts["labels"]["abuse_hate"].get("0", 0),
            "hate": counts["labels"]["abuse_hate"].get("1", 0),
        }
        for split, counts in stats["splits"].items()
    }
    return pd.DataFrame(rows).T


def skipped_table(stats: Mapping[str, Any]) -> pd.DataFrame:
    """Of what `pack` returned: the skipped examples with place and reason, a row each."""
    return pd.DataFrame(stats["skipped"]["rows"], columns=["where", "id", "reason"])
