"""A file of texts in, a file of emotions out, as a user runs it; on a tiny backbone."""

import importlib
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lib.config import ROOT
from lib.emotions import splits
from lib.emotions.classifier import BERTEmotionClassifier
from lib.emotions.data import LABELS

TEXTS = ["thank you so much", "oh no, how sad", "what a lovely day it is, really", "hm"]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.setattr(splits, "GENERATED_SIZES", {"train": 60, "dev": 120, "test": 60})
    monkeypatch.syspath_prepend(ROOT / "scripts")


def run(*options):
    """Run the script's main in this process and return its exit code."""
    module = importlib.import_module("predict_emotions")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["predict_emotions", *map(str, options)])
        importlib.import_module("emotion_cli").run(module.main)
    return end.value.code


@pytest.fixture(scope="module")
def classifier(save_tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predicting")
    torch.manual_seed(0)
    model = BERTEmotionClassifier(str(save_tiny_bert(folder / "backbone")))
    model.head.weight.data.mul_(3)
    model.set_temperature(1.3)
    model.set_threshold(np.linspace(0.3, 0.7, 28))
    model.save(folder / "classifier")
    return folder / "classifier"


@pytest.fixture(scope="module")
def measured(classifier, tmp_path_factory):
    folder = Path(shutil.copytree(classifier, tmp_path_factory.mktemp("m") / "classifier"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "GENERATED_SIZES", {"train": 60, "dev": 120, "test": 60})
        patch.syspath_prepend(ROOT / "scripts")
        engines = importlib.import_module("emotion_engines")
        # OpenVINO is not among the extras that tests have.
        tried = {name: way for name, way in engines.ENGINES.items() if "openvino" not in name}
        patch.setattr(engines, "ENGINES", tried)
        assert run("--measure", "--model", folder) == 0
    return folder


def lines(folder, *texts):
    file = folder / "texts.txt"
    file.write_text("\n".join(texts or TEXTS) + "\n", encoding="utf-8")
    return file


def test_each_text_gets_what_the_model_says_of_it(classifier, tmp_path):
    out = tmp_path / "told.csv"
    assert run(lines(tmp_path), "--out", out, "--model", classifier) == 0
    model, table = BERTEmotionClassifier.load(classifier), pd.read_csv(out, keep_default_na=False)
    assert list(table.columns) == ["id", "emotions", *LABELS]
    assert table["id"].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(table[list(LABELS)], model.predict_proba(TEXTS), atol=1e-6)
    told = [cell.split(";") if cell else [] for cell in table["emotions"]]
    assert told == model.predict(TEXTS)
    assert any(told)


def test_the_three_kinds_of_file_say_the_same(classifier, tmp_path):
    frame = pd.DataFrame({"id": ["a", "b", "c", "d"], "body": TEXTS})
    frame.to_csv(tmp_path / "in.csv", index=False)
    frame.to_json(tmp_path / "in.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "in.parquet")
    for suffix in ("csv", "jsonl", "parquet"):
        given, out = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
        assert run(given, "--column", "body", "--out", out, "--model", classifier) == 0
    table = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    parquet = pd.read_parquet(tmp_path / "out.parquet")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert table["id"].tolist() == parquet["id"].tolist() == [row["id"] for row in rows]
    assert [";".join(told) for told in parquet["emotions"]] == table["emotions"].tolist()
    assert [";".join(row["emotions"]) for row in rows] == table["emotions"].tolist()
    np.testing.assert_allclose(parquet[list(LABELS)], table[list(LABELS)], atol=1e-8)
    assert rows[1]["probabilities"]["joy"] == table["joy"][1]


def test_bad_rows_go_to_a_file_of_their_own_and_stop_nothing(classifier, tmp_path):
    file = tmp_path / "in.jsonl"
    given = ["fine", "", 3, None, "\ud800", "a" * 20_001, "last"]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in given) + "{\n")
    assert run(file, "--out", tmp_path / "out.csv", "--model", classifier) == 0
    assert pd.read_csv(tmp_path / "out.csv")["id"].tolist() == [1, 7]
    rejected = pd.read_csv(tmp_path / "out.rejected.csv")
    assert rejected["line"].tolist() == [2, 3, 4, 5, 6, 8]
    assert rejected["reason"].str.contains("empty|int|missing|Unicode|20,001|JSON").all()


def test_a_later_run_leaves_no_rejected_rows_of_an_earlier_one(classifier, tmp_path):
    for texts in (["fine", " "], ["fine", "too"]):
        out = tmp_path / "out.csv"
        assert run(lines(tmp_path, *texts), "--out", out, "--model", classifier) == 0
    assert pd.read_csv(tmp_path / "out.rejected.csv").empty


def test_chunks_change_nothing_but_the_memory(classifier, tmp_path, monkeypatch):
    file, written = lines(tmp_path, *(TEXTS * 9), " "), []
    for chunk in (8192, 7):
        monkeypatch.setattr(importlib.import_module("predict_emotions"), "CHUNK", chunk)
        assert run(file, "--out", tmp_path / "out.csv", "--model", classifier) == 0
        written.append(pd.read_csv(tmp_path / "out.csv", keep_default_na=False))
        assert pd.read_csv(tmp_path / "out.rejected.csv")["line"].tolist() == [37]
    pd.testing.assert_frame_equal(*written, atol=1e-6)


def test_running_again_writes_the_same_bytes(classifier, tmp_path):
    written = []
    for _ in range(2):
        assert run(lines(tmp_path), "--out", tmp_path / "out.jsonl", "--model", classifier) == 0
        written.append((tmp_path / "out.jsonl").read_bytes())
    assert written[0] == written[1]


def test_lines_come_from_standard_input_too(classifier, tmp_path, monkeypatch):
    given = io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode()))
    monkeypatch.setattr(sys, "stdin", given)
    assert run("-", "--out", tmp_path / "out.csv", "--model", classifier) == 0
    assert len(pd.read_csv(tmp_path / "out.csv")) == 4


def test_a_run_that_dies_leaves_the_earlier_answers(classifier, tmp_path, monkeypatch):
    out = tmp_path / "out.csv"
    out.write_text("earlier")
    engines = importlib.import_module("emotion_engines")

    def dying(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engines.Network, "logits", dying)
    monkeypatch.setattr(sys, "argv", ["x", str(lines(tmp_path)), "--out", str(out)])
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--model", str(classifier)])
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module("predict_emotions").main()
    assert out.read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "texts.txt"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("nowhere.csv", "--out", "out.csv"), "nowhere.csv does not exist"),
        (("in.csv", "--out", "out.csv"), "no column 'text' but body; choose with --column"),
        (("in.csv", "--out", "in.csv"), "would be overwritten"),
        (("in.csv", "--out", "out.xls"), "the suffix is none of .csv, .jsonl, .parquet"),
        (("in.xls", "--out", "out.csv"), "the suffix is none of .txt"),
        (("in.csv",), "--out"),
        (("empty.csv", "--out", "out.csv", "--column", "body"), "holds no row"),
        (("in.csv", "--out", "out.csv", "--engine", "warp"), "invalid choice: 'warp'"),
        (("in.csv", "--out", "out.csv", "--model", "none"), "train_emotion_model.py"),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_one_reason(
    classifier, tmp_path, monkeypatch, options, complaint, capsys
):
    monkeypatch.chdir(tmp_path)
    for name, content in {"in.csv": "body\nfine\n", "empty.csv": "body\n", "in.xls": "x"}.items():
        Path(name).write_text(content)
    before = sorted(Path().iterdir())
    model = () if "--model" in options else ("--model", classifier)
    assert run(*options, *model) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.splitlines()[-1].startswith("error: ")
    assert "usage:" not in error
    assert sorted(Path().iterdir()) == before


def test_it_says_which_data_it_used(classifier, tmp_path, capsys):
    file, out = lines(tmp_path), tmp_path / "out.csv"
    assert run(file, "--out", out, "--model", classifier) == 0
    assert f"4 texts of {file} judged with float32: {out}" in capsys.readouterr().out


def test_rows_that_an_open_quote_swallowed_are_counted_as_refused(classifier, tmp_path, capsys):
    file, out = tmp_path / "in.tsv", tmp_path / "out.csv"
    file.write_text('id\ttext\n1\t"so he said\n2\tnormal line\n3\tthe end"\n4\tlast one\n')
    assert run(file, "--out", out, "--model", classifier) == 0
    assert "1 rows refused" in capsys.readouterr().out
    assert pd.read_csv(out)["id"].tolist() == [4]
    (refused,) = pd.read_csv(tmp_path / "out.rejected.csv").itertuples()
    assert refused.line == 2
    assert "to line 4: an open quote?" in refused.reason


def test_engines_are_measured_gated_and_the_chosen_one_is_used(measured, tmp_path, capsys):
    kept = json.loads((measured.with_name("classifier.engines") / "engines.json").read_text())
    found = {row["engine"]: row for row in kept["engines"]}
    assert found["float32"]["verdict"] == found["onnx"]["verdict"] == "passed"
    assert found["onnx"]["moved_most"] < 1e-4
    for row in found.values():
        if row["verdict"] == "passed":
            assert row["flips"] <= 0.001
            assert row["moved_most"] <= 0.01
    passed = [row for row in found.values() if row["verdict"] == "passed"]
    assert kept["chosen"] == max(passed, key=lambda row: row["ratio"])["engine"]
    assert run(lines(tmp_path), "--out", tmp_path / "out.csv", "--model", measured) == 0
    assert f"engine {kept['chosen']}" in capsys.readouterr().out


@pytest.mark.parametrize("engine", ["float32", "bfloat16", "onnx", "onnx-int8"])
def test_every_engine_answers_like_float32(measured, tmp_path, engine):
    out = tmp_path / "out.csv"
    assert run(lines(tmp_path), "--out", out, "--model", measured, "--engine", engine) == 0
    prob = BERTEmotionClassifier.load(measured).predict_proba(TEXTS)
    apart = np.abs(pd.read_csv(out)[list(LABELS)].to_numpy() - prob).max()
    assert apart < {"float32": 1e-5, "onnx": 1e-5, "bfloat16": 0.01, "onnx-int8": 0.1}[engine]


def test_advice_names_the_folders_and_the_interpreter(classifier, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    Path("texts.txt").write_text("thank you\n")
    script = f".venv/bin/python {ROOT}/scripts"
    assert run("texts.txt", "--out", "told.csv", "--model", "gone") == 2
    train = f"make it with: {script}/train_emotion_model.py --model gone\n"
    assert capsys.readouterr().err.endswith(train)
    assert run("texts.txt", "--out", "told.csv", "--model", classifier, "--data", "D") == 0
    measure = f"found by: {script}/predict_emotions.py --measure --model {classifier} --data D\n"
    assert measure in capsys.readouterr().out


def test_an_engine_that_flips_decisions_is_refused(classifier, monkeypatch, tmp_path):
    engines = importlib.import_module("emotion_engines")
    folder = Path(shutil.copytree(classifier, tmp_path / "classifier"))
    network = engines.Network(BERTEmotionClassifier.load(folder), folder)

    def wrong(network):
        (run, *_) = engines.ENGINES["float32"](network)
        return [lambda ids, mask: -run(ids, mask)]

    fast = {"float32": engines.ENGINES["float32"], "wrong": wrong}
    monkeypatch.setattr(engines, "ENGINES", fast)
    table = engines.measure(network, TEXTS).set_index("engine")
    assert table["verdict"].to_dict() == {"float32": "passed", "wrong": "refused"}
    assert engines.chosen(network)[0] == "float32"


def test_an_engine_that_cannot_run_is_refused_with_its_reason(classifier, monkeypatch, tmp_path):
    engines = importlib.import_module("emotion_engines")
    folder = Path(shutil.copytree(classifier, tmp_path / "classifier"))
    network = engines.Network(BERTEmotionClassifier.load(folder), folder)

    def missing(network):
        raise ModuleNotFoundError("warp is not installed; install it with: pip install warp")

    monkeypatch.setattr(
        engines, "ENGINES", {"float32": engines.ENGINES["float32"], "warp": missing}
    )
    table = engines.measure(network, TEXTS).set_index("engine")
    assert "pip install warp" in table["verdict"]["warp"]
    with pytest.raises(ValueError, match="pip install warp"):
        network.passes("warp")


def test_new_thresholds_end_the_choice(measured, tmp_path, capsys):
    folder = Path(shutil.copytree(measured, tmp_path / "classifier"))
    shutil.copytree(measured.with_name("classifier.engines"), tmp_path / "classifier.engines")
    model = BERTEmotionClassifier.load(folder)
    model.set_threshold(0.5)
    model.update(folder)
    assert run(lines(tmp_path), "--out", tmp_path / "out.csv", "--model", folder) == 0
    told = capsys.readouterr().out
    assert "engine float32" in told
    assert "checkpoint changed since; measure again" in told
