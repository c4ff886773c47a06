"""The wing's one face: what it offers, and how little it loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lib.calibration

FOLDER = Path(lib.calibration.__file__).parent
SOURCES = sorted(FOLDER.glob("*.py"))
ALLOWED = {"numpy", "scipy", "pandas", "sklearn"}

# Top-level names of the modules that a fresh interpreter has after running a line.
LOADED = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def loaded_by(line):
    done = subprocess.run(
        [sys.executable, "-c", f"{line}; {LOADED}"],
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return set(done.stdout.split())


def imports(path):
    """Every module that a source file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module


@pytest.mark.parametrize("name", lib.calibration.__all__)
def test_name_is_offered(name):
    assert callable(getattr(lib.calibration, name))


def test_names_are_sorted_and_unique():
    assert lib.calibration.__all__ == sorted(set(lib.calibration.__all__))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_source_imports_only_the_numeric_stack_and_the_wing(path):
    for module in imports(path):
        top = module.partition(".")[0]
        inside = module == "lib.calibration" or module.startswith("lib.calibration.")
        assert inside or top in ALLOWED or top in sys.stdlib_module_names, module


def test_import_loads_nothing_beyond_the_numeric_stack():
    stack = sorted({m for path in SOURCES for m in imports(path) if m.partition(".")[0] in ALLOWED})
    ours = loaded_by("import lib.calibration")
    assert not ours & {"torch", "transformers", "matplotlib", "pydantic", "yaml", "PIL", "timm"}
    # What the stack pulls in by itself, such as joblib or dateutil, is its own affair.
    beyond = ours - loaded_by(f"import {', '.join(stack)}") - sys.stdlib_module_names
    assert beyond == {"lib"}


def test_import_leaves_pandas_and_scikit_learn_to_those_who_need_them():
    assert not loaded_by("import lib.calibration") & {"pandas", "sklearn"}


def test_modules_are_short():
    assert max(len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES) <= 350
