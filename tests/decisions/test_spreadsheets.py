import csv

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.artifacts import write_csv
from lib.decisions.spreadsheets import as_met, for_spreadsheets

LINES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=20)


@given(st.lists(LINES, min_size=1, max_size=5))
def test_words_come_back_and_no_cell_runs(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("table") / "table.csv"
    write_csv(path, for_spreadsheets(pd.DataFrame({"text": texts, "label": 1})))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert len(path.read_bytes().splitlines()) == len(texts) + 1
    for cell in (row[0] for row in rows):
        assert not cell.startswith(("=", "@", "\t", "\r"))
        if cell.startswith(("+", "-")):
            float(cell)
    assert as_met(path)["text"].tolist() == texts


def test_numbers_stay_numbers_and_ids_keep_their_zeros(tmp_path):
    table = pd.DataFrame({"id": ["01235", "-7"], "value": ["NA", "=1+1"], "gap": [-0.5, np.nan]})
    write_csv(tmp_path / "table.csv", for_spreadsheets(table))
    assert (tmp_path / "table.csv").read_text() == "id,value,gap\n01235,NA,-0.5\n-7,'=1+1,\n"
    pd.testing.assert_frame_equal(as_met(tmp_path / "table.csv"), table, check_dtype=False)


@pytest.mark.parametrize("name", ["+inf", "-nan", "-1_000", "-7 ", "+1e", "-٣"])
def test_what_python_alone_takes_for_a_number_is_a_word(name):
    assert for_spreadsheets(pd.DataFrame({"id": [name]}))["id"].tolist() == [f"'{name}"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\u2028", "\v"])
def test_a_text_of_several_lines_is_one_row(end):
    assert for_spreadsheets(pd.DataFrame({"text": [f"a{end}b"]}))["text"].tolist() == ["a b"]


def test_names_of_digits_keep_their_zeros_and_numbers_stay_numbers(tmp_path):
    names = {"annotator": ["007", "12"], "version": ["1.10", "1.9"]}
    table = pd.DataFrame(names | {"prob": [0.5, 1.0], "n": [0, 10]})
    write_csv(tmp_path / "t.csv", table)
    found = as_met(tmp_path / "t.csv")
    assert found[list(names)].to_dict("list") == names
    assert found[["prob", "n"]].dtypes.astype(str).tolist() == ["float64", "int64"]


def test_what_is_true_of_some_rows_only_stays_so(tmp_path):
    pd.DataFrame({"id": ["a", "b", "c"], "seen": [True, None, False]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    assert as_met(tmp_path / "t.csv")["seen"].tolist() == [True, "", False]
