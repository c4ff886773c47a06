"""Examples in the wing's docstrings run, and each public function has the sections it needs."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import lib.calibration

MODULES = [module.name for module in pkgutil.iter_modules(lib.calibration.__path__)]
FUNCTIONS = [
    name for name in lib.calibration.__all__ if inspect.isfunction(getattr(lib.calibration, name))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(f"lib.calibration.{name}")
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_documented(name):
    function = getattr(lib.calibration, name)
    text = inspect.getdoc(function)
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n{'-' * len(section)}\n" in text
    listed = text.partition("\nParameters\n")[2].partition("\nReturns\n")[0]
    named = {word.strip() for line in listed.splitlines()[1:] for word in line.split(",")}
    assert set(inspect.signature(function).parameters) <= named
    # A reference in the text is listed, and one that is listed is referred to.
    assert ("[1]_" in text) == ("\n.. [1] " in text)
