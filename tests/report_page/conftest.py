"""A run whose report has everything in it, hostile texts too, and a browser without a network."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.artifacts import write_csv
from lib.config import MODELS, Settings
from lib.data.corrections import CORRECTIONS
from lib.data.datasets import MemeShards, shard_paths
from lib.data.example import Example
from lib.data.packing.pack import pack
from lib.decisions.bundle import DecisionBundle
from lib.decisions.error_analysis import write_errors
from lib.decisions.spreadsheets import for_spreadsheets
from lib.modeling.prediction_table import predictions_to_fit, save_predictions
from lib.report_page.page import write_page

HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
    ' "quoted" & \u202eright to left'
)
HOSTILE_ID = "<b id='x'>\"&#%,é"
N = 46


def drawn(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def example(i: int, split: str, **changes) -> Example:
    fields = {
        "id": f"{split}{i}",
        "dataset": ("first", "second")[i % 3 == 0],
        "image": functools.partial(drawn, i + 100 * (split == "val") + 200 * (split == "test")),
        "ocr": f"{split} words number {i} {'rare' if i == 7 else ''}",
        "caption": "",
        "labels": {"abuse_hate": i % 2},
        "split": split,
    }
    return Example(**(fields | changes))


def examples() -> list[Example]:
    test = [example(i, "test") for i in range(N)]
    test[0] = example(0, "test", id=HOSTILE_ID, ocr=HOSTILE)
    test[1] = example(1, "test", image=None)
    others = [example(i, split) for split in ("train", "val") for i in range(4)]
    return [*others, *test]


def _save_run(settings: Settings, logits_frame: Callable, test: pd.DataFrame) -> None:
    """Predictions, models and a decision fitted on val, as Steps 4 to 7 leave them."""
    for model in MODELS:
        (settings.models / model).mkdir(parents=True)
        (settings.models / model / "model.safetensors").write_bytes(model.encode())
    val = logits_frame(120, "val")
    both = pd.concat([val, test], ignore_index=True)
    both.attrs = val.attrs
    save_predictions(both, settings.artifact(6, "predictions.parquet"))
    DecisionBundle.fit(predictions_to_fit(settings), settings, 20).save(settings)


def perturbed() -> pd.DataFrame:
    rows = [
        {"perturbation": name, "severity": severity, "model": model, "n": N, "macro_f1": 0.8 - cost}
        | {"may_change_label": name == "text: leetspeak"}
        | {"macro_f1_change": -cost * severity * (model != "vision_expert")}
        for name, cost in (("none", 0.0), ("text: <b>typos</b>", 0.1), ("text: leetspeak", 0.2))
        for severity in (1, 2)
        for model in MODELS
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def run(tmp_path_factory, logits_frame) -> Settings:
    """Settings of a root with all that the page is made of; its page is written too."""
    settings = Settings(mode="full", root=tmp_path_factory.mktemp("report"), prevalence=0.1)
    pack(examples(), settings.step3, mode="full", taxonomy=settings.taxonomy)
    memes = MemeShards(shard_paths(settings.shards, "test"), pictures=False)
    test = logits_frame(len(memes), "test", seed=3)
    test["id"] = test["group"] = memes.ids
    test["label"] = memes.labels
    _save_run(settings, logits_frame, test)
    write_errors(settings, DecisionBundle.load(settings))
    write_csv(settings.artifact(7, "robustness.csv"), perturbed())
    suspects = pd.DataFrame({"id": ["007", "train1"], "text": HOSTILE, "label": [1, 0]})
    write_csv(settings.artifact(7, "label_suspects.csv"), for_spreadsheets(suspects))
    (settings.root / CORRECTIONS).parent.mkdir()
    (settings.root / CORRECTIONS).write_text('id,label,reason\ntrain3,0,"made, before"\n')
    write_page(settings)
    return settings


@pytest.fixture
def opened(chromium) -> Iterator[Callable]:
    """Open a page from disk without a network; no error and no request may come of it."""
    contexts, problems = [], []

    def open_page(path: Path, fragment: str = "", **options):
        context = chromium.new_context(offline=True, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url))
        page.goto(path.as_uri() + fragment)
        page.wait_for_selector("#progress:not(:empty)", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [what for what in problems if not what.startswith(("file:", "data:", "blob:"))] == []


@pytest.fixture(scope="session")
def save_run() -> Callable:
    """Call it with settings, `logits_frame` and the predictions on test."""
    return _save_run
