import re
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from jupyter_client.manager import run_kernel
from nbformat.v4 import new_code_cell, new_notebook
from sklearn.metrics import f1_score, precision_score, recall_score

from lib.calibration import prob_hate
from lib.calibration.ranking import ABOVE_ALL
from lib.commands import GIVEN
from lib.config import MODELS, ROOT
from lib.figures import interactive
from lib.figures.interactive import decisions_at, errors_at, sortable, threshold_explorer

CUTS = {"text_expert": 0.25, "vision_expert": 0.5, "mm_fusion": 0.6}
DECISION = SimpleNamespace(temperatures=dict.fromkeys(MODELS, 2.0), thresholds=CUTS)


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    columns = {f"{m}_logit_{side}": rng.normal(size=60) for m in MODELS for side in (0, 1)}
    ids = [f"meme-{row}" for row in range(60)]
    return pd.DataFrame({"id": ids, "label": rng.integers(0, 2, 60)} | columns)


def prob_of(frame, model):
    return prob_hate(frame[[f"{model}_logit_0", f"{model}_logit_1"]].to_numpy(), 2.0)


def test_moving_a_slider_shows_what_scikit_learn_says_of_that_threshold(frame, monkeypatch):
    monkeypatch.delenv(GIVEN, raising=False)
    box = threshold_explorer(frame, DECISION)
    *sliders, page = box.children
    assert [slider.value for slider in sliders] == list(CUTS.values())
    before = page.value
    sliders[2].value = 0.437
    hate = prob_of(frame, "mm_fusion") >= 0.437
    cells = page.value.split("mm_fusion</th>")[1].split("</tr>")[0]
    for score in (precision_score, recall_score, f1_score):
        assert f"<td>{score(frame['label'], hate):.3f}</td>" in cells
    assert before.split("mm_fusion")[0] == page.value.split("mm_fusion")[0]
    assert before != page.value


def test_a_threshold_above_every_score_is_shown_as_it_is(frame, monkeypatch):
    monkeypatch.delenv(GIVEN, raising=False)
    nobody = SimpleNamespace(
        temperatures=DECISION.temperatures, thresholds=CUTS | {"mm_fusion": ABOVE_ALL}
    )
    *sliders, page = threshold_explorer(frame, nobody).children
    assert sliders[2].value == ABOVE_ALL
    work, _ = page.value.split("</table>")[:2]
    assert re.findall("<td>(.*?)</td>", work)[-1] == "0"


def test_beside_it_the_slider_lists_the_errors_and_the_work_at_that_threshold(frame, monkeypatch):
    monkeypatch.delenv(GIVEN, raising=False)
    *sliders, page = threshold_explorer(frame, DECISION).children
    for cut in (0.0, 0.437, 0.9):
        sliders[2].value = cut
        prob, label = prob_of(frame, "mm_fusion"), frame["label"].to_numpy()
        wrong = np.flatnonzero((prob >= cut) != label)
        surest = wrong[np.argsort(-np.abs(prob - label)[wrong], kind="stable")][:10]
        work, errors = page.value.split("</table>")[:2]
        cells = re.findall("<td>(.*?)</td>", errors)
        ids, fusion, kinds = cells[::6], map(float, cells[4::6]), cells[5::6]
        assert ids == frame["id"].iloc[surest].tolist()
        assert list(fusion) == pytest.approx(prob[surest], abs=5e-4)
        assert kinds == np.where(label[surest] == 1, "FN", "FP").tolist()
        assert re.findall("<td>(.*?)</td>", work)[-1] == str(round(10_000 * np.mean(prob >= cut)))


def test_a_threshold_without_errors_lists_none():
    frame = pd.DataFrame({"id": ["a", "b"], "label": [0, 1]})
    assert errors_at(frame, dict.fromkeys(MODELS, np.array([0.1, 0.9])), 0.5).empty


def test_in_a_batch_run_the_chosen_thresholds_stand_in_a_table(frame, monkeypatch):
    monkeypatch.setenv(GIVEN, "python -m lib.run")
    table = threshold_explorer(frame, DECISION)
    assert table["threshold"].to_dict() == CUTS
    for model, cut in CUTS.items():
        hate = prob_of(frame, model) >= cut
        macro = f1_score(frame["label"], hate, average="macro")
        assert table.loc[model, "macro_f1"] == pytest.approx(macro)
    assert (table[["tp", "fp", "tn", "fn"]].sum(axis=1) == len(frame)).all()


def test_papermill_is_a_batch_run_and_a_front_end_is_none(tmp_path, monkeypatch):
    monkeypatch.delenv(GIVEN, raising=False)
    source = "from lib.figures.interactive import is_batch\nprint(is_batch())"
    file, said = tmp_path / "notebook.ipynb", []
    nbformat.write(new_notebook(cells=[new_code_cell(source)]), file)
    done = papermill.execute_notebook(
        file, None, kernel_name="python3", progress_bar=False, cwd=ROOT
    )
    assert done.cells[0].outputs[0]["text"] == "True\n"

    def heard(message):
        said.append(message["content"].get("text"))

    with run_kernel(cwd=str(ROOT)) as client:
        client.execute_interactive(source, allow_stdin=True, output_hook=heard, timeout=120)
    assert "False\n" in said


def test_a_class_that_is_neither_there_nor_predicted_counts_nothing():
    table = decisions_at({"mm_fusion": np.ones(4)}, np.ones(4, int), {"mm_fusion": 0.5})
    assert table.loc["mm_fusion", ["f1", "macro_f1"]].tolist() == [1.0, 0.5]


def test_a_csv_file_becomes_a_page_that_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.delenv(GIVEN, raising=False)
    file = tmp_path / "errors.csv"
    pd.DataFrame({"id": ["a", "b"], "text": ["<script>alert(1)</script>", "y"]}).to_csv(file)
    page = sortable(file).data
    assert "src=" not in page.split("<table")[0].replace("data:", "")
    assert "<script>alert(1)" not in page
    monkeypatch.setenv(GIVEN, "python -m lib.run")
    assert sortable(file, rows=1)["id"].tolist() == ["a"]
    monkeypatch.setattr(pd.DataFrame, "head", lambda table, rows: table)
    assert len(sortable(file, rows=1)) == 1, "the whole file was read"
    monkeypatch.undo()
    monkeypatch.setenv(GIVEN, "python -m lib.run")
    pd.DataFrame({"id": ["01"], "text": ["'=1+1"]}).to_csv(file, index=False)
    assert sortable(file).iloc[0].tolist() == ["01", "=1+1"]


def test_a_large_table_is_sampled(monkeypatch):
    monkeypatch.delenv(GIVEN, raising=False)
    monkeypatch.setattr(interactive, "SHOWN_BYTES", "8KB")
    small, large = (sortable(pd.DataFrame({"x": np.arange(n)})).data for n in (10, 100_000))
    assert len(large) < len(small) + 50_000
