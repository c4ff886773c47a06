"""Engines: measured, gated, kept, bound to the models, and what they change of the answers."""

import json
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lib.artifacts import write_json
from lib.config import Settings
from lib.modeling.fusion import load_fusion
from lib.serving import MemeClassifier
from lib.serving.demo import demo_memes
from lib.serving.engines import kept as kept_module
from lib.serving.engines.kept import engine_folder, write_graphs
from lib.serving.engines.measuring import Gate, _timed, measure
from lib.serving.engines.onnx_files import export_onnx
from lib.serving.engines.runtimes import RUNTIMES, networks, refusal


@pytest.fixture(scope="module")
def root(full_root, tmp_path_factory) -> Settings:
    """A copy, so that no other test is served by an engine."""
    folder = tmp_path_factory.mktemp("engines") / "root"
    shutil.copytree(full_root.root, folder, ignore=shutil.ignore_patterns("features", "engines"))
    return full_root.model_copy(update={"root": folder})


@pytest.fixture(scope="module")
def kept(root) -> dict:
    return measure(root, memes=12)


@pytest.fixture(scope="module")
def memes(root) -> tuple[list[str], list]:
    demo = demo_memes(root, 3)
    return demo.text, demo.image_path


def test_what_is_kept_passes_its_gate_and_every_refusal_has_a_reason(kept):
    found, allowed = kept["gate"]["found"], kept["gate"]["allowed"]
    assert found["flips"] <= allowed["flips"]
    assert found["probability"] <= allowed["probability"]
    rows = {(row["encoder"], row["runtime"]): row for row in kept["measured"]}
    for encoder, runtime in kept["choice"].items():
        assert rows[encoder, runtime]["refused"] == ""
    assert all(row["refused"] for row in rows.values() if "memes_per_second" not in row)
    assert rows["text_expert", "onnxruntime"]["probability"] < 1e-5


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_float32_graphs_give_the_answers_of_pytorch(root, kept, memes, engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    expected = MemeClassifier.load(root.root, "full", engine="float32").predict_batch(*memes)
    classifier = MemeClassifier.load(root.root, "full", engine=engine)
    together = classifier.predict_batch(*memes)
    alone = [classifier.predict(*meme) for meme in zip(*memes, strict=True)]
    with ThreadPoolExecutor(3) as pool:
        in_threads = list(pool.map(classifier.predict, *memes))
    for answers in (together, alone, in_threads):
        for answer, other in zip(answers, expected, strict=True):
            assert answer["decision"] == other["decision"]
            assert answer["prob_hate"] == pytest.approx(other["prob_hate"], abs=1e-5)
            assert answer["experts"] == pytest.approx(other["experts"], abs=1e-5)
            assert answer["rests_on"] == pytest.approx(other["rests_on"], abs=1e-5)


SESSIONS_GO_AND_A_SIGNAL_COMES = """
import os, signal, sys
from lib.serving.engines.onnx_files import OpenVinoSession

signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
sessions = [OpenVinoSession(sys.argv[1]) for _ in range(3)]
while sessions:
    del sessions[0]
    os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_is_heard_after_sessions_of_openvino_are_gone(tmp_path):
    """Where the processor has AMX, OpenVINO changes the stack that signals are handled on."""
    pytest.importorskip("openvino")
    graph = tmp_path / "graph.onnx"
    export_onnx(torch.nn.Linear(2, 1), {"input": torch.zeros(2, 2)}, ["logits"], graph, {})
    command = [sys.executable, "-c", SESSIONS_GO_AND_A_SIGNAL_COMES, graph]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["heard"] * 3), done.stderr


def test_a_gate_of_nothing_leaves_float32(root, kept, tmp_path):
    strict = root.model_copy(update={"root": tmp_path / "strict"})
    shutil.copytree(root.root, strict.root)
    found = measure(strict, memes=4, gate=Gate(probability=-1.0))
    assert set(found["choice"].values()) == {"float32"}


def test_the_kept_engine_is_taken_and_one_of_other_models_is_not(root, kept, memes):
    file = engine_folder(root) / "engine.json"
    choice = dict.fromkeys(kept["choice"], "onnxruntime")
    write_json(file, kept | {"choice": choice})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        served = MemeClassifier.load(root.root, "full")
    names = {type(source).__name__ for source in served.model.encoders.sources.values()}
    assert "GraphSource" in names
    write_json(file, kept | {"choice": choice, "fingerprints": {"text_expert": "another"}})
    with pytest.warns(
        UserWarning, match=r"measured for other models.*lib\.serving\.engines --mode"
    ):
        served = MemeClassifier.load(root.root, "full")
    names = {type(source).__name__ for source in served.model.encoders.sources.values()}
    assert "GraphSource" not in names
    write_json(file, kept)


def test_a_stale_graph_that_another_process_removed_is_no_fault(root, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(kept_module, "export_encoder", lambda *what: written.append(what[-1]))
    monkeypatch.setattr(type(tmp_path), "glob", lambda folder, _: [folder / "gone.onnx"])
    model, of = load_fusion(root.models, "cpu"), {"text_expert": "new"}
    write_graphs(model, {"text_expert": "onnxruntime"}, tmp_path, of)
    assert written == [tmp_path / "text_expert.onnx"]


def test_graphs_of_other_models_go_before_those_of_new_ones_are_written(root, tmp_path):
    model = load_fusion(root.models, "cpu")
    for models in ("old", "new"):
        of = {"text_expert": models}
        write_graphs(model, {"text_expert": "onnxruntime"}, tmp_path, of)
        write_graphs(model, {"text_expert": "onnxruntime-int8"}, tmp_path, of)
        if models == "old":
            before = (tmp_path / "text_expert.int8.onnx").read_bytes()
            with torch.no_grad():
                for weight in networks(model)["text_expert"].parameters():
                    weight.mul_(2)
    assert (tmp_path / "text_expert.int8.onnx").read_bytes() != before


def test_a_graph_that_was_changed_is_not_run(root, kept):
    file = engine_folder(root) / "text_expert.onnx"
    whole = file.read_bytes()
    written = kept | {"choice": {"text_expert": "onnxruntime"}}
    write_json(engine_folder(root) / "engine.json", written | {"files": {file.name: "0" * 16}})
    with pytest.warns(UserWarning, match=r"text_expert\.onnx is missing or another file"):
        MemeClassifier.load(root.root, "full")
    assert file.read_bytes() == whole
    write_json(engine_folder(root) / "engine.json", kept)


def test_an_engine_whose_runtime_is_missing_names_the_extra(root, kept, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"pip install 'calibrated-memes\[export\]'"):
        MemeClassifier.load(root.root, "full", engine="onnxruntime")


def test_on_an_accelerator_its_own_runtimes_are_measured_where_the_model_is():
    def source(inputs, tokens):
        assert inputs["pixels"].device.type == "meta"
        return {"pooled": inputs["pixels"]}

    _timed(source, torch.device("meta"), [{"pixels": torch.ones(2)}], False)
    for name, runtime in RUNTIMES.items():
        if runtime.load is not None:
            assert refusal(name, "text", "meta") == "the models are on meta"


def test_what_no_engine_is_named_for_is_computed_in_float32_on_an_accelerator_too(root, kept):
    assert MemeClassifier.load(root.root, "full").model.encoders.bf16 is False


def test_an_unknown_engine_is_named_with_the_known_ones(root):
    with pytest.raises(ValueError, match=r"engine 'warp' is unknown; known: float32"):
        MemeClassifier.load(root.root, "full", engine="warp")


def test_engine_json_holds_no_absolute_path(root, kept):
    text = (engine_folder(root) / "engine.json").read_text(encoding="utf-8")
    assert str(root.root) not in text
    assert json.loads(text)["cpu"] == kept_module.processor_name()
