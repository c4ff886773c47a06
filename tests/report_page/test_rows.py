from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lib.artifacts import write_csv
from lib.calibration import prob_hate
from lib.config import Settings
from lib.decisions.bundle import DecisionBundle
from lib.decisions.error_analysis import error_table
from lib.decisions.policy import Policy
from lib.decisions.spreadsheets import for_spreadsheets
from lib.modeling.prediction_table import logits_of, read_predictions
from lib.report_page import rows as rows_module
from lib.report_page.embedding import safe_json
from lib.report_page.rows import page_rows

N = 300


@pytest.fixture(scope="module")
def small(tmp_path_factory, logits_frame, save_run):
    """Settings, predictions on test and decision of a run, its error table written."""
    settings = Settings(mode="full", root=tmp_path_factory.mktemp("rows"))
    test = logits_frame(N, "test")
    test["id"] = [f"-{i}" if i % 7 == 0 else f"0{i}" for i in range(N)]
    save_run(settings, logits_frame, test)
    decision, report = DecisionBundle.load(settings), read_predictions(settings, "test")
    texts = [f"[OCR] {'=1+1 ' * (i % 5)}{i} [/OCR] [CAP] [/CAP] <lang=en>" for i in range(N)]
    metas = [{"dataset": "ab"[i % 2], "labels": {}, "lang": "en", "group": "g"} for i in range(N)]
    table = error_table(report, texts, metas, decision).assign(note=np.arange(N) / 3)
    write_csv(settings.artifact(7, "errors.csv"), for_spreadsheets(table))
    return settings, report, decision


@pytest.mark.parametrize("chunk", [7, 1000])
def test_errors_come_first_by_confidence_then_what_is_nearest_to_the_threshold(
    small, monkeypatch, chunk
):
    settings, report, decision = small
    monkeypatch.setattr(rows_module, "CHUNK", chunk)
    content, places = page_rows(settings, report, decision, 10**7)
    prob = prob_hate(logits_of(report, "mm_fusion"), decision.temperatures["mm_fusion"])
    cut, labels = decision.thresholds["mm_fusion"], report["label"].to_numpy()
    wrong = (prob >= cut) != labels
    n = int(wrong.sum())
    assert wrong[places[:n]].all() and not wrong[places[n:]].any() and len(places) == N
    assert (np.diff(np.abs(prob - labels)[places[:n]]) <= 0).all()
    assert (np.diff(np.abs(prob - cut)[places[n:]]) >= -1e-12).all()
    assert content["id"] == report["id"].iloc[places].tolist()
    assert content["label"] == labels[places].tolist()
    assert content["text"][0] == f"{'=1+1 ' * (places[0] % 5)}{places[0]}"


def test_columns_of_few_values_are_filters_and_the_others_are_told(small):
    settings, report, decision = small
    content, places = page_rows(settings, report, decision, 10**7)
    filters = {found["name"]: found for found in content["filters"]}
    dataset = filters["dataset"]
    assert [dataset["values"][code] for code in dataset["codes"]] == ["ab"[i % 2] for i in places]
    assert "note" not in filters and content["details"]["note"][0] == f"{places[0] / 3:.4g}"
    assert "language" not in {*filters, *content["details"]}


def test_values_of_a_filter_are_told_as_they_are(small, tmp_path, monkeypatch):
    settings, report, decision = small
    table = pd.read_csv(settings.artifact(7, "errors.csv"), dtype=str, keep_default_na=False)
    table["version"] = [("1.10", "1.1", "2023.10", "2023.11")[row % 4] for row in range(N)]
    table.to_csv(tmp_path / "errors.csv", index=False)
    monkeypatch.setattr(Settings, "artifact", lambda self, step, name: tmp_path / name)
    content, places = page_rows(settings, report, decision, 10**7)
    (found,) = [each for each in content["filters"] if each["name"] == "version"]
    assert found["values"] == ["1.1", "1.10", "2023.10", "2023.11"]
    told = [found["values"][code] for code in found["codes"]]
    assert told == table["version"].iloc[places].tolist()
    # Of few memes the confidence is a filter, too, and still a measurement.
    monkeypatch.setattr(rows_module, "ROWS", 20)
    few, _ = page_rows(settings, report, decision, 10**7)
    (values,) = [each["values"] for each in few["filters"] if each["name"] == "confidence"]
    assert max(map(len, values)) <= len("0.0001234")


@pytest.mark.parametrize(
    "edited",
    [
        lambda d: replace(d, thresholds=d.thresholds | {"text_expert": 0.9}),
        lambda d: replace(d, thresholds=d.thresholds | {"mm_fusion": 0.9}),
        lambda d: replace(d, temperatures={m: t * 1.001 for m, t in d.temperatures.items()}),
        lambda d: replace(d, policy=Policy.at_threshold(0.5)),
    ],
    ids=["an expert's threshold", "fusion's threshold", "temperatures", "the policy"],
)
def test_an_error_table_of_another_decision_is_refused(small, edited):
    settings, report, decision = small
    with pytest.raises(ValueError, match=r"errors_full\.csv is of another decision.*--from 7"):
        page_rows(settings, report, edited(decision), 10**7)


def test_what_does_not_fit_is_cut_short_then_left_out(small, monkeypatch):
    settings, report, decision = small
    monkeypatch.setattr(rows_module, "LENGTHS", ((400, 160), (6, 3)))
    everything = page_rows(settings, report, decision, 10**7)
    short = page_rows(settings, report, decision, 26_000)
    few = page_rows(settings, report, decision, 5_000)
    assert len(short.places) == N and max(map(len, short.content["text"])) == 6
    assert few.places == everything.places[: len(few.places)] and 20 < len(few.places) < 90
    monkeypatch.setattr(rows_module, "ROWS", 50)
    assert page_rows(settings, report, decision, 10**7).places == everything.places[:50]


def test_filters_count_towards_the_room(small, tmp_path, monkeypatch):
    settings, report, decision = small
    table = pd.read_csv(settings.artifact(7, "errors.csv"), dtype=str, keep_default_na=False)
    for k in range(30):
        table[f"seen_{k}"] = [str((row + k) % 3) for row in range(N)]
    table.to_csv(tmp_path / "errors.csv", index=False)
    monkeypatch.setattr(Settings, "artifact", lambda self, step, name: tmp_path / name)
    content, places = page_rows(settings, report, decision, 30_000)
    assert 50 < len(places) < N
    # Names and values of filters are written once.
    assert len(safe_json(content).encode()) < 30_000 + 4_000


def test_nothing_to_show_is_no_error(small):
    settings, report, decision = small
    assert page_rows(settings, report, decision, 0).content["id"] == []
    assert rows_module.no_rows()["id"] == []
