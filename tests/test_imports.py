"""Imports point down and run in no circle: the contracts in pyproject.toml hold, and they bite."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.config import ROOT


def lint_imports(folder: Path) -> subprocess.CompletedProcess:
    """Check the contracts of this repository on the `lib` that lies in `folder`."""
    program = (
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=1))"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_imports_point_down():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "chain"),
    [
        ("lib/data/text.py", "import lib.decisions.bundle", "lib.data.text -> lib.decisions"),
        ("lib/data/taxonomy.py", "import lib.data.sources", "No cycles are allowed in lib.data"),
        ("lib/calibration/ranking.py", "import torch", "lib.calibration.ranking -> torch"),
        ("lib/modeling/fusion.py", "import peft", "lib.modeling.fusion -> peft"),
        ("lib/newcomer.py", "", "lib.newcomer"),
    ],
)
def test_a_wrong_import_is_named(module, line, chain, tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / module).open("a", encoding="utf-8") as stream:
        stream.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert chain in done.stdout
