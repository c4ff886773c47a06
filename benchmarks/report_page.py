"""What Step 7's report takes at 100,000 memes: writing it, its size, and its slider in Chromium.

    python benchmarks/report_page.py [--memes 100000] [--moves 60]

Generated logits and texts, without pictures. A move of the slider counts until numbers and list are
laid out. Writes results/report_page.csv.
"""

import argparse
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from playwright.sync_api import sync_playwright

from lib.artifacts import write_csv
from lib.config import MODELS, Settings
from lib.decisions.bundle import DecisionBundle
from lib.decisions.error_analysis import error_table
from lib.modeling.prediction_table import (
    model_fingerprints,
    predictions_to_fit,
    read_predictions,
    save_predictions,
)
from lib.report_page.page import write_page

RESULTS = Path(__file__).parent / "results/report_page.csv"
MOVE = """async (moves) => {
  const cut = document.getElementById("cut"), took = [];
  for (let k = 0; k < moves; k++) {
    cut.value = (k * 379) % 1001;
    const start = performance.now();
    cut.dispatchEvent(new Event("input"));
    document.body.offsetHeight;
    took.push(performance.now() - start);
    await new Promise(requestAnimationFrame);
  }
  return took;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memes", type=int, default=100_000)
    parser.add_argument("--moves", type=int, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = finished_run(Path(folder), given.memes)
        start = time.perf_counter()
        page = write_page(settings)
        lines = [
            ("writing", time.perf_counter() - start, "s", "the step under 60 s"),
            ("size", page.stat().st_size / 1e6, "MB", "under 2 MB"),
            *slider(page, given.moves),
        ]
    table = pd.DataFrame(lines, columns=["what", "value", "unit", "wanted"])
    table = table.assign(memes=given.memes, cpu=platform.processor() or platform.machine())
    print(table.to_string(index=False))
    write_csv(RESULTS, table)


def finished_run(root: Path, n: int) -> Settings:
    """Settings of a root that holds what the page is made of."""
    settings, rng = Settings(mode="full", root=root, prevalence=0.05), np.random.default_rng(0)
    for model in MODELS:
        (settings.models / model).mkdir(parents=True)
        (settings.models / model / "model.safetensors").write_bytes(model.encode())
    frame = pd.concat([logits(5_000, "val", rng), logits(n, "test", rng)], ignore_index=True)
    frame.attrs = {"models": model_fingerprints(settings.models)}
    save_predictions(frame, settings.artifact(6, "predictions.parquet"))
    decision = DecisionBundle.fit(predictions_to_fit(settings), settings, 20)
    decision.save(settings)
    report = read_predictions(settings, "test")
    words = rng.choice(["meme", "words", "that", "nobody", "wrote", "говорит"], (n, 20))
    texts = [f"[OCR] {' '.join(row)} [/OCR] [CAP] [/CAP] <lang=en>" for row in words]
    metas = [{"dataset": "one", "labels": {}, "lang": "en", "group": i} for i in report["id"]]
    write_csv(settings.artifact(7, "errors.csv"), error_table(report, texts, metas, decision))
    return settings


def logits(n: int, split: str, rng: np.random.Generator) -> pd.DataFrame:
    label = (rng.random(n) < 0.4).astype(int)
    ids = [f"{split}-{i:07d}" for i in range(n)]
    part = "calibrate" if split == "val" else ""
    columns = {"id": ids, "split": split, "part": part, "group": ids, "label": label}
    for model, strength in zip(MODELS, (0.8, 0.4, 1.3), strict=True):
        margin = 4 * (rng.normal(size=n) + strength * (2 * label - 1))
        columns |= {f"{model}_logit_0": -margin / 2, f"{model}_logit_1": margin / 2}
    return pd.DataFrame(columns)


def slider(path: Path, moves: int) -> list[tuple[str, float, str, str]]:
    """The median and the slowest twentieth of the slider's moves, and how long opening takes."""
    with sync_playwright() as playwright:
        program = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_context(offline=True).new_page()
        start = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_selector("#list tbody tr")
        opening = time.perf_counter() - start
        took = page.evaluate(MOVE, moves)
        browser.close()
    slow = float(np.quantile(took, 0.95))
    return [
        ("opening", opening, "s", ""),
        ("a move of the slider, median", statistics.median(took), "ms", "under 50 ms"),
        ("a move of the slider, 95%", slow, "ms", "under 50 ms"),
    ]


if __name__ == "__main__":
    main()
