"""A full run killed at any moment, and begun again until it ends, leaves the bytes of another."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lib.config import ROOT

# Five kills and two runs of a minute or two.
pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("KILLS", 5))
# Executed notebooks tell how long their cells took, and the other two hold dates of files.
DIFFERS = (".ipynb", "finished.json", "index.dates")


@pytest.fixture
def command(tiny_backbones, tmp_path):
    """The command of a small full run in a root of that name."""
    settings = {"mode": "full", "dataset": "confounders", "n_memes": 150, "workers": 1, "folds": 2}
    settings |= {"fusion_members": 2, "fusion_seeds": 2, "fusion_epochs": 3, "robustness_memes": 12}
    settings |= {"text_epochs": 2, "vision_epochs": 1}
    settings |= {name: str(folder) for name, folder in tiny_backbones.items()}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    program = [sys.executable, "-m", "lib.run", "--config", str(config)]

    def of(name):
        return [*program, "--root", str(tmp_path / name)]

    return of


def started(command) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def left(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    found = {str(path.relative_to(root)): path for path in files}
    return {name: path.read_bytes() for name, path in found.items() if not name.endswith(DIFFERS)}


def test_a_run_that_was_killed_ends_with_the_same_bytes(command, tmp_path):
    start = time.monotonic()
    assert started(command("whole")).wait() == 0
    took = time.monotonic() - start
    rng, kills = random.Random(0), 0
    for _ in range(KILLS):
        run = started(command("killed"))
        try:
            # Each goes on for a while only, so that all steps are met.
            run.wait(timeout=rng.uniform(0.1, 0.35) * took)
        except subprocess.TimeoutExpired:
            # The notebooks' kernels too, as when the machine goes down.
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            kills += 1
    assert kills >= min(KILLS, 3)
    assert started(command("killed")).wait() == 0
    whole, killed = left(tmp_path / "whole"), left(tmp_path / "killed")
    assert killed.keys() == whole.keys()
    assert [name for name in whole if killed[name] != whole[name]] == []
