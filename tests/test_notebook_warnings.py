import nbformat
import pytest

from lib.layout import ROOT
from lib.notebook_warnings import warnings_in

OWN = ROOT / "lib/data/splits.py"


@pytest.fixture
def told(tmp_path):
    """Call it with what cells wrote to stderr, and get the warnings among it."""

    def warnings(*texts):
        outputs = [nbformat.v4.new_output("stream", name="stderr", text=text) for text in texts]
        cells = [nbformat.v4.new_code_cell("", outputs=[output]) for output in outputs]
        cells.append(nbformat.v4.new_markdown_cell("UserWarning: none"))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "x.ipynb")
        return warnings_in(tmp_path / "x.ipynb")

    return warnings


def test_a_warning_is_told_once_without_the_place_it_points_to(told):
    line = f"{OWN}:7: UserWarning: 3 of 4 are lost\n  given = list(examples)\n"
    cell = "/tmp/ipykernel_12/345.py:1: UserWarning: c.csv: one is unknown\n  stats = pack(\n"
    assert told(line + cell, line) == ["3 of 4 are lost", "c.csv: one is unknown"]


def test_a_warning_behind_a_progress_bar_is_found(told):
    bar = "\rpacking:  10%|#  | 5/50 [00:00<00:09]"
    assert told(f"{bar}{OWN}:7: UserWarning: lost\n  x\n{bar}\n") == ["lost"]


def test_a_line_of_a_million_characters_takes_no_time(told):
    assert told("a/" * 500_000 + f"{OWN}:7: UserWarning: lost\n  x\n") == ["lost"]


@pytest.mark.parametrize(
    "text",
    [
        "/x/.venv/lib/python3.11/site-packages/torch/a.py:1: UserWarning: old\n  x\n",
        "/x/.venv/lib/python3.11/site-packages/numpy/lib/npyio.py:1: UserWarning: old\n  x\n",
        f"{OWN}:7: FutureWarning: will change\n  x\n",
        "[transformers] LOAD REPORT\nclassifier.weight | MISSING\n",
        "\rpacking: 100%|##| 50/50\n",
    ],
)
def test_what_libraries_say_and_progress_bars_are_left_out(told, text):
    assert told(text) == []
