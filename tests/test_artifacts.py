import json
import os

import numpy as np
import pandas as pd
import pytest

from lib.artifacts import (
    atomic_path,
    fingerprint,
    guard_overwrite,
    read_json,
    write_csv,
    write_json,
)


def test_json_has_sorted_keys_and_six_decimals(tmp_path):
    write_json(tmp_path / "a.json", {"b": np.float64(1 / 3), "a": (1, np.arange(2))})
    assert (tmp_path / "a.json").read_text() == (
        '{\n  "a": [\n    1,\n    [\n      0,\n      1\n    ]\n  ],\n  "b": 0.333333\n}\n'
    )


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_csv_bytes_are_the_same_twice(tmp_path):
    frame = pd.DataFrame({"x": [1 / 3, 2.0], "name": ["a", "b"]})
    write_csv(tmp_path / "a.csv", frame)
    assert (tmp_path / "a.csv").read_bytes() == b"x,name\n0.333333,a\n2.000000,b\n"


def test_a_failed_folder_write_leaves_the_old_folder(tmp_path):
    with atomic_path(tmp_path / "model") as new:
        new.mkdir()
        (new / "weights").write_text("old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "model") as new:
        new.mkdir()
        (new / "weights").write_text("half")
        raise RuntimeError
    assert (tmp_path / "model/weights").read_text() == "old"
    with atomic_path(tmp_path / "model") as new:
        new.mkdir()
        (new / "weights").write_text("new")
    assert (tmp_path / "model/weights").read_text() == "new"
    assert os.listdir(tmp_path) == ["model"]


def test_fingerprint_follows_content_and_not_place(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text("same")
    before = fingerprint(tmp_path / "one")
    assert before == fingerprint(tmp_path / "two")
    (tmp_path / "one/f").write_text("other")
    assert fingerprint(tmp_path / "one") != before


def test_missing_artifact_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"calibration.json .* python -m lib.run --from 7"):
        read_json(tmp_path / "calibration.json", "python -m lib.run --from 7")


def test_broken_json_names_the_file(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json", "Step 7")


def test_only_a_full_run_is_protected(tmp_path):
    marker = tmp_path / "made_from.json"
    mine = {"mode": "full", "data": "mine"}
    guard_overwrite(marker, mine, overwrite=False)
    write_json(marker, {"mode": "pilot", "data": "theirs"})
    guard_overwrite(marker, mine, overwrite=False)
    write_json(marker, {"mode": "full", "data": "theirs"})
    with pytest.raises(FileExistsError, match=r"theirs.*mine.*overwrite=true.*another root"):
        guard_overwrite(marker, mine, overwrite=False)
    guard_overwrite(marker, mine, overwrite=True)
    write_json(marker, mine)
    guard_overwrite(marker, mine, overwrite=False)
