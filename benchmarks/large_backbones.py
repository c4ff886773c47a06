"""Memes a second and core with the backbones that a full run takes unless told otherwise.

    python benchmarks/large_backbones.py [--memes 8] [--tokens 32] [--repeats 3]

mDeBERTa-v3-base and SigLIP-base-patch16-384 in their published sizes, with random weights, since
what they say does not matter here: passes in batches on one thread, in single precision and under
bfloat16 autocast, by PyTorch. A meme is a pass of both. Writes results/large_backbones.csv.
"""

import argparse
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipVisionConfig,
)

from lib.artifacts import write_csv
from lib.modeling.device import bf16_pays
from lib.serving.engines.runtimes import processor_name

RESULTS = Path(__file__).parent / "results/large_backbones.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memes", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    ids = torch.randint(5, 1000, (given.memes, given.tokens))
    sides = {
        "mDeBERTa-v3-base": (mdeberta(), {"input_ids": ids}),
        "SigLIP-base-patch16-384": (
            siglip(),
            {"pixel_values": torch.rand(given.memes, 3, 384, 384)},
        ),
    }
    precisions = ("float32", "bfloat16") if bf16_pays("cpu") else ("float32",)
    rows = []
    for precision in tqdm(precisions, desc="precisions"):
        taken = {name: seconds(*side, precision, given.repeats) for name, side in sides.items()}
        taken["both"] = sum(taken.values())
        rows += [
            {"backbone": name, "precision": precision, "memes_a_second_and_core": given.memes / s}
            for name, s in taken.items()
        ]
    table = pd.DataFrame(rows).assign(
        batch=given.memes, tokens=given.tokens, cpu=processor_name(), torch=version("torch")
    )
    write_csv(RESULTS, table)
    print(table.to_string(index=False))


def mdeberta() -> torch.nn.Module:
    config = DebertaV2Config(
        vocab_size=251_000,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        max_relative_positions=-1,
    )
    return DebertaV2ForSequenceClassification(config).eval()


def siglip() -> torch.nn.Module:
    config = SiglipConfig(vision_config=SiglipVisionConfig(image_size=384, patch_size=16).to_dict())
    return SiglipForImageClassification(config).eval()


@torch.inference_mode()
def seconds(model: torch.nn.Module, inputs: dict, precision: str, repeats: int) -> float:
    """Median of some passes, one more than counted."""
    taken = []
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        for _ in range(repeats + 1):
            start = time.perf_counter()
            model(**inputs)
            taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


if __name__ == "__main__":
    main()
