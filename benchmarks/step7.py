"""What Step 7 takes at many memes, perturbing them apart: its notebook as papermill runs it.

    python benchmarks/step7.py --root DIR [--memes 100000]

`--memes` counts those of val and test together, about half of them each. DIR holds a finished full
run and is left as it is. Its val and test memes are repeated under other
ids and groups until there are so many, with noise in the features that the encoders made of them,
so that no two memes have one score; Step 6 judges them, then Step 7's notebook runs on all.
Writes results/step7.csv: seconds in all and of the slowest cells, and the most memory that a kernel
held.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import torch
from tqdm import tqdm
from webdataset import TarWriter

from lib.artifacts import write_csv
from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.modeling.encoders import Encoders
from lib.modeling.feature_cache import FeatureCache
from lib.modeling.features import TOKEN_ARRAYS
from lib.modeling.fusion import load_fusion
from lib.run import run_steps

RESULTS = Path(__file__).parent / "results/step7.csv"
SLOWEST = 8
# Of a feature's size: enough to tell the copies of a meme apart, too little to change the picture.
NOISE = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--memes", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = larger(Settings(mode="full", root=given.root), Path(folder), given.memes)
        parameters = settings.saved() | {"mode": "full", "root": str(settings.root)}
        parameters |= {"robustness_memes": 30}
        run_steps(parameters, 6, 6)
        run_steps(parameters, 7, 7)
        memes = packed_memes(settings)
        cells = cells_of(settings.run_folder / "step7_analysis.ipynb")
    kept = cells[~cells["source"].str.contains("robustness")]
    kept = kept[["what", "seconds"]].sort_values("seconds", ascending=False)
    held = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    lines = [
        ("all of Step 7 but perturbing", kept["seconds"].sum()),
        *kept.head(SLOWEST).to_numpy(),
    ]
    table = pd.DataFrame(lines, columns=["what", "seconds"]).assign(
        memes=memes, kernel_mb=held, cpu=f"{platform.machine()} x{os.cpu_count()}"
    )
    write_csv(RESULTS, table)
    print(table.to_string(index=False))


def larger(settings: Settings, folder: Path, memes: int) -> Settings:
    """A copy of a finished run in which val and test hold so many memes between them."""
    shutil.copytree(
        settings.root, folder / "root", ignore=shutil.ignore_patterns("Step_8", "*.html")
    )
    new = Settings(mode="full", root=folder / "root")
    model = load_fusion(new.models)
    for split in ("val", "test"):
        shards = shard_paths(new.shards, split)
        number = sum(1 for shard in shards for _ in samples(shard))
        for copy in tqdm(range(1, memes // 2 // number), desc=f"repeating {split}"):
            copies = [repeated(shard, copy) for shard in shards]
            with_noise(new, model.encoders, model.head.reads_tokens, shards, copies)
    return new


def repeated(shard: Path, copy: int) -> Path:
    """The shard's memes under other ids, in a shard beside it."""
    new = shard.with_name(f"{shard.stem}-{copy:03d}.tar")
    with new.open("wb") as stream, TarWriter(stream, mtime=0, encoder=False) as tar:
        for key, members in samples(shard):
            meta = json.loads(members["json"])
            meta |= {"id": f"{meta['id']}-{copy}", "group": f"{meta['group'] or meta['id']}-{copy}"}
            members["json"] = json.dumps(meta).encode()
            tar.write({"__key__": f"{key}-{copy}", **members})
    return new


def samples(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each meme's key and members by ending."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            key, _, ending = member.name.partition(".")
            found.setdefault(key, {})[ending] = tar.extractfile(member).read()
    yield from found.items()


def with_noise(
    settings: Settings, encoders: Encoders, tokens: bool, shards: list[Path], copies: list[Path]
) -> None:
    """Keep what the encoders are taken to make of the copies."""
    cache = FeatureCache(settings.features, encoders, [*shards, *copies], tokens)
    for shard, copy in zip(shards, copies, strict=True):
        for name in encoders.sources:
            arrays = cache.load(name, shard)
            # A file may hold token states for another head.
            read = {k: a for k, a in arrays.items() if tokens or k not in TOKEN_ARRAYS}
            cache.save(name, copy, {key: _shaken(array) for key, array in read.items()})


def _shaken(array: torch.Tensor) -> torch.Tensor:
    if not array.is_floating_point():
        return array.clone()
    return array + NOISE * array.std().nan_to_num(0) * torch.randn_like(array)


def packed_memes(settings: Settings) -> int:
    """How many memes val and test hold."""
    return sum(
        len(MemeShards(shard_paths(settings.shards, split), pictures=False))
        for split in ("val", "test")
    )


def cells_of(notebook: Path) -> pd.DataFrame:
    """Each cell's last line of code, its seconds and its source."""
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    return pd.DataFrame(
        {
            "what": [cell.source.strip().splitlines()[-1][:70] for cell in cells],
            "seconds": [cell.metadata.papermill.duration or 0.0 for cell in cells],
            "source": [cell.source for cell in cells],
        }
    )


if __name__ == "__main__":
    main()
