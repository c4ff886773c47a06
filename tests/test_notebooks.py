"""The contract of the six notebooks: one idea a cell, no definitions, outputs that can be checked.

A change that breaks a rule fails here in milliseconds, before nbval runs a single cell.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from lib.config import ROOT, Settings
from lib.run import NOTEBOOKS

MAX_BYTES = 400_000
MAX_LINES = 15
CHECKED = "nbval-check-output"
# As a path, not as a word: "http://host/home/" has something other than a quote or space before it.
MACHINE_PATH = re.compile(r"(?<![\w.:])/(home|root|work|tmp|Users)/|\b[A-Za-z]:\\")
NBVAL = ("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "120")


@pytest.fixture(scope="module", params=NOTEBOOKS, ids="step{}".format)
def step(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def notebook(step) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / NOTEBOOKS[step], as_version=4)


@pytest.fixture(scope="module")
def code(notebook) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def tree(cell: nbformat.NotebookNode) -> ast.Module:
    """The cell as Python, its `%magics` blanked out."""
    return ast.parse(re.sub(r"(?m)^\s*[%!].*$", "pass", cell.source))


def shown(cell: nbformat.NotebookNode) -> str:
    """All text among a cell's outputs; pictures are left out, for base64 may spell anything."""
    texts = []
    for output in cell.get("outputs", []):
        texts += [output.get("text", ""), *output.get("traceback", [])]
        data = output.get("data", {})
        texts += [str(value) for kind, value in data.items() if not kind.startswith("image/")]
    return "\n".join(texts)


def headings(markdown: str) -> list[str]:
    prose = re.sub(r"(?ms)^(```|~~~).*?^\1\s*$", "", markdown)
    return [line.strip() for line in prose.splitlines() if re.match(r"#{1,6} ", line)]


def test_is_valid_and_small(step, notebook):
    nbformat.validate(notebook)
    assert (ROOT / NOTEBOOKS[step]).stat().st_size < MAX_BYTES


def test_runs_on_the_kernel_that_every_machine_has(notebook):
    assert notebook.metadata.kernelspec.name == "python3"


def test_cell_ids_follow_the_position(step, notebook):
    expected = [f"step{step}-{place:02d}" for place in range(len(notebook.cells))]
    assert [cell.id for cell in notebook.cells] == expected


def test_the_first_code_cell_and_no_other_holds_the_parameters(code):
    assert [place for place, cell in enumerate(code) if "parameters" in tags(cell)] == [0]


def test_parameters_are_settings_with_literal_values(code):
    statements = tree(code[0]).body
    assert all(isinstance(statement, ast.Assign) for statement in statements)
    for statement in statements:
        ast.literal_eval(statement.value)
        assert statement.targets[0].id in Settings.model_fields


def test_the_second_code_cell_checks_the_settings(code):
    assigned = {ast.unparse(s) for s in tree(code[1]).body if isinstance(s, ast.Assign)}
    assert "settings = Settings.from_notebook(globals())" in assigned


def test_no_setting_is_assigned_after_the_parameters(code):
    for cell in code[1:]:
        stored = {
            name.id
            for name in ast.walk(tree(cell))
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
        }
        assert not stored & set(Settings.model_fields), cell.source


def test_cells_define_nothing_and_do_not_loop(code):
    logic = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.For | ast.While
    for cell in code:
        assert not [node for node in ast.walk(tree(cell)) if isinstance(node, logic)], cell.source


def test_cells_are_short(code):
    assert max(len(cell.source.splitlines()) for cell in code) <= MAX_LINES


def test_a_sentence_stands_before_every_code_cell(notebook):
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        if cell.cell_type == "code":
            assert before is not None and before.cell_type == "markdown", cell.source
            assert re.search(r"(?m)^[^#\s]", before.source), f"only a heading before {cell.id}"


def test_headings_equal_the_document(step, notebook):
    cells = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    document = (ROOT / f"Step_{step}.md").read_text(encoding="utf-8")
    assert headings(document) == headings(cells)


def test_was_run_in_order_without_an_error(code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]


def test_checked_cells_have_text_to_compare(code):
    checked = [cell for cell in code if CHECKED in tags(cell)]
    assert checked, "a notebook without a checked cell passes nbval whatever it prints"
    for cell in checked:
        assert shown(cell).strip(), f"{cell.id} has no output"
        assert not re.search(r"\.\d{5}", shown(cell)), f"{cell.id} shows a raw float"
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        assert not [kind for kind in kinds if kind.startswith("image/")], cell.id
        assert "stderr" not in {output.get("name") for output in cell.outputs}, cell.id


def test_names_no_place_on_the_machine_that_ran_it(notebook):
    for cell in notebook.cells:
        found = MACHINE_PATH.search(cell.source + "\n" + shown(cell))
        assert found is None, f"{cell.id}: {found}"


@pytest.mark.parametrize("change", ["unchanged", "output", "code"])
def test_nbval_notices_a_changed_output(change, tmp_path):
    """On the first cells of Step 8: parameters, then the settings, whose output is checked."""
    notebook = nbformat.read(ROOT / NOTEBOOKS[8], as_version=4)
    notebook.cells = notebook.cells[:5]
    checked = notebook.cells[4]
    assert CHECKED in tags(checked) and checked.outputs[0].text == "mode: pilot\n"
    if change == "output":
        checked.outputs[0].text = "mode: full\n"
    if change == "code":
        checked.source += '\nprint("more")'
    nbformat.write(notebook, tmp_path / "short.ipynb")
    done = nbval(tmp_path / "short.ipynb")
    assert done.returncode == (0 if change == "unchanged" else 1), done.stdout
    assert ("1 failed" in done.stdout) == (change != "unchanged")


def nbval(notebook: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", *NBVAL, "-p", "no:cacheprovider", notebook.name]
    return subprocess.run(
        command, cwd=notebook.parent, capture_output=True, text=True, timeout=180, check=False
    )


def test_the_picture_of_the_readme_shows_the_pilot_s_threshold():
    step_8 = nbformat.read(ROOT / NOTEBOOKS[8], as_version=4)
    (said,) = (
        re.search(r"^threshold (\S+)$", text, re.M)[1]
        for cell in step_8.cells
        if "threshold " in (text := shown(cell)) and cell.source.startswith('print(f"temperature')
    )
    with Image.open(ROOT / "docs/pilot.png") as picture:
        assert picture.text["threshold"] == said


def test_no_progress_bar_is_kept(code):
    bar = "application/vnd.jupyter.widget-view+json"
    assert not [cell.id for cell in code for out in cell.outputs if bar in out.get("data", {})]
