import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import artifacts
from lib.artifacts import (
    as_written,
    atomic_path,
    fingerprint,
    guard_overwrite,
    read_json,
    write_csv,
    write_json,
)


def test_json_has_sorted_keys_and_nine_significant_digits(tmp_path):
    write_json(tmp_path / "a.json", {"b": np.float64(1 / 3), "a": (1, np.arange(2))})
    assert (tmp_path / "a.json").read_text() == (
        '{\n  "a": [\n    1,\n    [\n      0,\n      1\n    ]\n  ],\n  "b": 0.333333333\n}\n'
    )


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_of_any_size_keeps_nine_digits(value):
    written = as_written(value)
    # Denormal numbers have fewer digits to keep
    assert written == pytest.approx(value, rel=5.1e-9, abs=1e-320)
    assert as_written(written) == written == json.loads(json.dumps(written))


def test_a_tiny_number_does_not_become_zero(tmp_path):
    tiny = 1.23456789e-7
    write_json(tmp_path / "a.json", {"T": tiny})
    assert json.loads((tmp_path / "a.json").read_text()) == {"T": tiny}
    write_csv(tmp_path / "a.csv", pd.DataFrame({"T": [tiny]}))
    assert (tmp_path / "a.csv").read_text() == "T\n1.23456789e-07\n"


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_csv_bytes_are_the_same_twice(tmp_path):
    frame = pd.DataFrame({"x": [1 / 3, 2.0], "name": ["a", "b"]})
    write_csv(tmp_path / "a.csv", frame)
    assert (tmp_path / "a.csv").read_bytes() == b"x,name\n0.333333333,a\n2,b\n"


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


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "file") as new:
        new.touch(mode=0o600)
    with atomic_path(tmp_path / "folder") as new:
        (new / "inner").mkdir(parents=True)
        (new / "inner" / "weights").touch(mode=0o600)
    for file in (tmp_path / "file", tmp_path / "folder/inner/weights"):
        assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


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


@pytest.mark.parametrize("rate", [1.23456789e-7, 1 / 3])
def test_what_was_written_from_the_same_is_the_same(tmp_path, rate):
    marker = tmp_path / "made_from.json"
    made_from = {"mode": "full", "learning_rate": rate, "folds": (1, 2)}
    write_json(marker, made_from)
    guard_overwrite(marker, made_from, overwrite=False)
    with pytest.raises(FileExistsError):
        guard_overwrite(marker, made_from | {"learning_rate": 2 * rate}, overwrite=False)


KILLED = """
import os, signal, sys
from lib.artifacts import atomic_path
with atomic_path(sys.argv[1]) as new:
    new.mkdir()
    (new / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(path):
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    (scratch,) = (entry for entry in path.parent.iterdir() if entry.name.startswith("."))
    return scratch


def write_in_a_new_process(path):
    command = "import sys; from lib.artifacts import write_text; write_text(sys.argv[1], 'new')"
    subprocess.run([sys.executable, "-c", command, str(path)], check=True)


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    killed_while_writing(tmp_path / "model")
    write_in_a_new_process(tmp_path / "other.txt")
    assert os.listdir(tmp_path) == ["other.txt"]


def test_the_scratch_of_a_living_process_stays(tmp_path):
    with atomic_path(tmp_path / "mine") as new:
        new.write_text("not yet whole")
        write_in_a_new_process(tmp_path / "other.txt")
        artifacts._swept.clear()
        write_json(tmp_path / "third.json", {})
        assert new.exists()
    assert sorted(os.listdir(tmp_path)) == ["mine", "other.txt", "third.json"]


def test_the_scratch_of_another_machine_stays_for_a_day(tmp_path):
    ours = killed_while_writing(tmp_path / "model")
    theirs = ours.with_name(ours.name.replace(artifacts._machine(), "0" * 12))
    ours.rename(theirs)
    write_in_a_new_process(tmp_path / "other.txt")
    assert theirs.exists()
    for part in [*theirs.rglob("*"), theirs]:
        os.utime(part, (0, 0))
    write_in_a_new_process(tmp_path / "other.txt")
    assert os.listdir(tmp_path) == ["other.txt"]


def test_a_kill_between_the_renames_of_a_folder_is_mended(tmp_path):
    scratch = killed_while_writing(tmp_path / "model")
    (scratch / "replaced").mkdir()
    write_in_a_new_process(tmp_path / "other.txt")
    assert (tmp_path / "model/half").exists()
    assert sorted(os.listdir(tmp_path)) == ["model", "other.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_fault_between_the_renames_of_a_folder_keeps_the_old_one(tmp_path, monkeypatch, error):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/old").write_text("x")
    monkeypatch.setattr(artifacts.os, "replace", lambda *_: (_ for _ in ()).throw(error()))
    with pytest.raises(error), atomic_path(tmp_path / "model") as new:
        new.mkdir()
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(tmp_path / "model") == ["old"]


def test_threads_that_write_first_into_a_folder_leave_each_others_scratch(tmp_path):
    def write(number):
        write_json(tmp_path / f"{number // 8}/{number}.json", number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(800)))
    assert len(list(tmp_path.glob("*/*.json"))) == 800


def test_hidden_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / ".model.old").mkdir()
    write_in_a_new_process(tmp_path / "model")
    assert (tmp_path / ".model.old").exists()
