"""The built wheel holds the whole library with its data files, and works without the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lib.config import ROOT

SUFFIXES = (".py", ".yaml", ".html", ".css", ".js")

IN_FRESH_INTERPRETER = """
import sys
sys.path.insert(0, sys.argv[1])
import lib.calibration, lib.data, lib.decisions, lib.emotions, lib.figures, lib.modeling
import lib.report_page.page, lib.serving
from lib.data.confounders.vocabulary import PICTOGRAMS
from lib.emotions.generated import generate
assert all(map(lib.report_page.page._own, ("page.html", "page.css", *lib.report_page.page.SCRIPTS)))
assert PICTOGRAMS and len(generate(3, seed=0)) == 3
print(*{module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "lib"})
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built from a copy, so that the repository is left without a build folder."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "lib", source / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--wheel-dir", str(source / "built"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = (source / "built").glob("*.whl")
    return zipfile.ZipFile(built)


def test_holds_every_module_and_data_file_and_nothing_else(wheel):
    kept = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = [path for path in (ROOT / "lib").rglob("*") if path.suffix in SUFFIXES]
    assert kept == {path.relative_to(ROOT).as_posix() for path in files}
    assert {"lib/data/confounders/vocabulary.yaml", "lib/emotions/sentences.yaml"} <= kept


def test_every_wing_works_from_another_folder(wheel, tmp_path):
    site = tmp_path / "site"
    wheel.extractall(site)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # Neither the repository's modules nor the measuring of their coverage reach in there.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and "COVERAGE" not in k}
    done = subprocess.run(
        [sys.executable, "-c", IN_FRESH_INTERPRETER, str(site)],
        cwd=elsewhere,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(Path(file).is_relative_to(site) for file in done.stdout.split())
