import json
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lib.config import MODELS
from lib.data.datasets import MemeShards, shard_paths
from lib.data.pictures import blank_picture
from lib.data.text import combined_text
from lib.serving import MemeClassifier
from lib.serving import __main__ as program_of
from lib.serving import demo as demo_module
from lib.serving import evidence as evidence_module
from lib.serving import shards as shards_module
from lib.serving.demo import demo_memes
from lib.serving.histograms import WORDS
from lib.serving.shards import write_scores
from tests.serving.bad_inputs import ODD_MEMES

TEXT = "when you open the fridge again"


@pytest.fixture(scope="module")
def classifier(full_root):
    return MemeClassifier.load(full_root.root, "full", device="cpu")


@pytest.fixture
def own_root(full_root, tmp_path):
    """A copy of the models and decisions, to be edited."""
    for folder in ("models", "Step_7"):
        shutil.copytree(full_root.root / folder, tmp_path / folder)
    return tmp_path


def pictures(folder):
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (60, 90, 3), dtype=np.uint8))
    alpha = Image.fromarray(rng.integers(0, 255, (60, 90, 4), dtype=np.uint8), "RGBA")
    deep = Image.fromarray(rng.integers(0, 65535, (60, 90), dtype=np.uint16))
    saved = {
        "plain.jpg": (rgb, {}),
        "alpha.png": (alpha, {}),
        "grey.png": (rgb.convert("L"), {}),
        "palette.gif": (rgb.convert("P"), {}),
        "animated.gif": (rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "lossy.webp": (rgb, {}),
        "print.jpg": (rgb.convert("CMYK"), {}),
        "print.tif": (rgb.convert("CMYK"), {}),
        "deep.png": (deep, {}),
        "deep.tif": (deep, {}),
        "tiny.png": (Image.new("1", (1, 1)), {}),
    }
    for name, (image, options) in saved.items():
        image.save(folder / name, **options)
    return [folder / name for name in saved]


def test_every_common_kind_of_picture_is_judged(classifier, tmp_path):
    paths = pictures(tmp_path)
    batch = classifier.predict_batch([TEXT] * len(paths), [str(path) for path in paths])
    for path, together in zip(paths, batch, strict=True):
        alone = classifier.predict(TEXT, path)
        assert alone["logits"] == pytest.approx(together["logits"], abs=1e-5), path.name
        assert 0 < alone["prob_hate"] < 1
        assert alone["label"] == int(alone["prob_hate"] >= alone["threshold"])
        assert set(alone["experts"]) == {"text_expert", "vision_expert"}


def test_threads_may_share_a_classifier(classifier, tmp_path):
    paths = pictures(tmp_path)
    alone = [classifier.predict(TEXT, path)["logits"] for path in paths]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda path: classifier.predict(TEXT, path)["logits"], paths))
    assert np.array(together) == pytest.approx(np.array(alone), abs=1e-5)


def test_columns_of_pandas_are_taken_in_their_order(classifier, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    frame = pd.DataFrame({"text": ["monday", "zebra", "again"], "image": str(tmp_path / "a.png")})
    sorted_down = frame.sort_values("text", ascending=False).head(2)
    found = classifier.predict_batch(sorted_down["text"], sorted_down["image"])
    assert [answer["text"] for answer in found] == ["zebra", "monday"]


@pytest.mark.parametrize(
    ("text", "picture", "said"),
    [
        (float("nan"), "a.png", "text is float"),
        (pd.NA, "a.png", "text is NAType"),
        (TEXT, float("nan"), "the picture is float"),
        (TEXT, Image.new("RGB", (0, 0)), "0 x 0 pixels"),
        (TEXT, "gone.png", "no such picture"),
    ],
)
def test_of_several_memes_the_bad_one_is_named(classifier, tmp_path, text, picture, said):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    bad = str(tmp_path / picture) if isinstance(picture, str) else picture
    with pytest.raises((ValueError, FileNotFoundError), match=rf"^meme 1 of 2.*: .*{said}"):
        classifier.predict_batch([TEXT, text], [tmp_path / "a.png", bad])


def test_an_answer_is_plain_json(classifier, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    answer = classifier.predict(TEXT, tmp_path / "a.png")
    assert json.loads(json.dumps(answer)) == answer
    assert type(answer["label"]) is int
    assert type(answer["decision"]) is str
    assert type(answer["review"]) is bool


@pytest.mark.parametrize(
    ("allow", "block", "decision"),
    [(None, None, "review"), (None, 0.0, "block"), (1.0, 1.0, "allow"), (0.0, 1.0, "review")],
)
def test_the_policy_decides_and_the_threshold_labels(classifier, allow, block, decision):
    policy = replace(classifier.decision.policy, allow=allow, block=block)
    thresholds = classifier.decision.thresholds | {"mm_fusion": 0.0}
    other = replace(classifier.decision, policy=policy, thresholds=thresholds)
    answer = MemeClassifier(classifier.model, other).predict(TEXT, None)
    assert (answer["decision"], answer["review"]) == (decision, decision == "review")
    assert answer["label"] == 1


def test_a_decision_without_a_policy_names_file_and_command(own_root):
    edit(own_root, "decision_full.json", lambda c: c.pop("policy"))
    with pytest.raises(ValueError, match=r"decision_full\.json: field 'policy'.*--from 7"):
        MemeClassifier.load(own_root, "full")


def test_predictions_are_those_of_step_6(full_root, classifier):
    memes = MemeShards(shard_paths(full_root.shards, "test"))
    samples = [memes[i] for i in range(6)]
    texts, images = [s["text"] for s in samples], [s["image"] for s in samples]
    saved = pd.read_parquet(full_root.artifact(6, "predictions.parquet")).set_index("id")
    for batch_size in (1, 4, 16):
        answers = classifier.predict_batch(texts, images, batch_size)
        for answer, sample in zip(answers, samples, strict=True):
            expected = saved.loc[sample["id"], ["mm_fusion_logit_0", "mm_fusion_logit_1"]]
            assert answer["logits"] == pytest.approx(expected.tolist(), abs=5e-3)


def test_devices_without_double_precision_are_left_first(classifier, monkeypatch):
    class OnDevice:
        """Logits on a device such as Apple's, which has no float64."""

        def chunk(self, parts):
            return [self] * parts

        def cpu(self):
            return torch.tensor([[0.0, 1.0]])

    found = dict.fromkeys(MODELS, OnDevice())
    monkeypatch.setattr(evidence_module, "model_logits", lambda *_: dict(found))
    assert classifier.predict(TEXT, None)["logits"] == [0.0, 1.0]


def test_plain_and_packed_text_are_the_same(classifier):
    image = Image.new("RGB", (384, 384))
    packed = f"[OCR] {TEXT} [/OCR] [CAP] [/CAP] <lang=en>"
    plain, same = classifier.predict_batch([TEXT, packed], [image, image])
    assert plain["prob_hate"] == pytest.approx(same["prob_hate"], abs=1e-6)


@pytest.mark.parametrize("text", ["", "   ", "\U0001f602 \u200d\u0301", "x" * 20000, "[OCR]"])
def test_any_text_is_judged(classifier, text):
    answer = classifier.predict(text, Image.new("RGB", (20, 20)))
    assert 0 < answer["prob_hate"] < 1


def test_bad_pictures_are_named(classifier, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (tmp_path / "note.jpg").write_text("no picture")
    for name in ("torn.png", "note.jpg"):
        with pytest.raises(ValueError, match=re.escape(name)):
            classifier.predict(TEXT, tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        classifier.predict(TEXT, tmp_path / "gone.png")


@pytest.mark.parametrize(
    ("text", "picture", "said"),
    [
        (None, None, "neither text nor picture"),
        ("  ", None, "neither text nor picture"),
        ("x" * 20001, None, "text has 20,001 characters; at most 20,000"),
        ("half \ud83d", None, "text is not valid Unicode.* at 5"),
        (7, None, "text is int, expected a string"),
        (TEXT, b"", "picture: not a picture of a known format"),
        (TEXT, 7, "the picture is int, expected a path, bytes or a PIL image"),
    ],
)
def test_what_cannot_be_judged_is_said_in_one_line(classifier, text, picture, said):
    with pytest.raises(ValueError, match=said) as caught:
        classifier.predict(text, picture)
    assert "\n" not in str(caught.value)


def test_a_picture_may_be_a_path_bytes_or_an_image(classifier, tmp_path):
    file = pictures(tmp_path)[0]
    answers = classifier.predict_batch(
        [TEXT] * 4, [file, str(file), file.read_bytes(), Image.open(file)]
    )
    for answer in answers[1:]:
        # Rows of a batch may be summed in another order, by where in memory they lie.
        assert answer["logits"] == pytest.approx(answers[0]["logits"], abs=1e-6)


def test_an_answer_says_what_it_rests_on(classifier, tmp_path):
    file = pictures(tmp_path)[0]
    both, text_alone, picture_alone = classifier.predict_batch([TEXT, TEXT, ""], [file, None, file])
    assert both["rests_on"] == pytest.approx(
        {"without_text": picture_alone["prob_hate"], "without_picture": text_alone["prob_hate"]},
        abs=1e-5,
    )
    assert (both["text"], both["text_from"]) == (TEXT, "given")


def test_answers_come_in_the_order_of_the_memes(classifier):
    texts = ["a much longer text than all of the others here", "short", "one of some length"]
    together = classifier.predict_batch(texts, [None] * 3, batch_size=2)
    alone = [classifier.predict(text, None) for text in texts]
    assert [answer["text"] for answer in together] == texts
    for one, other in zip(together, alone, strict=True):
        assert one["logits"] == pytest.approx(other["logits"], abs=1e-5)


@pytest.mark.parametrize("meme", ODD_MEMES, ids=lambda meme: meme.name)
def test_a_bad_or_odd_meme_has_one_answer_or_one_error(classifier, meme, tmp_path):
    (tmp_path / "picture").write_bytes(meme.picture or b"")
    for picture in (meme.picture, meme.picture and tmp_path / "picture"):
        if meme.said is None:
            assert 0 <= classifier.predict(meme.text, picture)["prob_hate"] <= 1
            continue
        with pytest.raises(ValueError, match=meme.said) as raised:
            classifier.predict(meme.text, picture)
        assert "\n" not in str(raised.value)


def test_texts_and_pictures_must_pair_up(classifier):
    with pytest.raises(ValueError, match="2 texts but 1 pictures"):
        classifier.predict_batch(["a", "b"], [Image.new("RGB", (8, 8))])
    assert classifier.predict_batch([], []) == []


def edit(root, name, change):
    file = root / "Step_7" / name
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(("threshold", "label"), [(0, 1), (1.0, 0)])
def test_an_edited_threshold_decides(own_root, threshold, label):
    edit(own_root, "thresholds_full.json", lambda c: c["mm_fusion"].update(abuse_hate=threshold))
    answer = MemeClassifier.load(own_root, "full").predict(TEXT, Image.new("RGB", (8, 8)))
    assert (answer["threshold"], answer["label"]) == (threshold, label)


def test_a_threshold_out_of_range_is_named(own_root):
    edit(own_root, "thresholds_full.json", lambda c: c["mm_fusion"].update(abuse_hate=1.5))
    with pytest.raises(ValueError, match=r"thresholds_full\.json: mm_fusion\.abuse_hate is 1\.5"):
        MemeClassifier.load(own_root, "full")


def test_thresholds_of_other_models_are_refused(own_root):
    config = own_root / "models/full/mm_fusion/history.json"
    config.write_text("[]")
    with pytest.raises(
        ValueError, match=r"mm_fusion is not the model .*--mode full --root \S+ --from 6"
    ):
        MemeClassifier.load(own_root, "full")


@pytest.mark.parametrize(
    ("missing", "step"),
    [
        ("Step_7/decision_full.json", 7),
        ("Step_7/thresholds_full.json", 7),
        ("Step_7/calibration_full.json", 7),
        ("models/full/mm_fusion", 5),
        ("models/full/mm_fusion/fusion_model.pt", 5),
        ("models/full/text_expert", 4),
        ("models/full/vision_expert", 4),
    ],
)
def test_a_missing_artifact_names_file_and_command(own_root, missing, step):
    path = own_root / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path.name}.*lib.run.*--from {step}"):
        MemeClassifier.load(own_root, "full")


def test_the_mode_that_was_not_run_says_so(full_root):
    with pytest.raises(FileNotFoundError, match=r"decision_pilot\.json"):
        MemeClassifier.load(full_root.root, "pilot")


def judged_of(classifier, shards):
    return pd.concat(shards_module._judged(classifier, shards), ignore_index=True)


def test_demo_and_scores_cover_the_reported_split(full_root, classifier, tmp_path):
    demo = demo_memes(full_root, n=3)
    assert [Image.open(path).size for path in demo.image_path] == [(384, 384)] * 3
    again = classifier.predict_frame(demo.text, demo.image_path)
    shards = shard_paths(full_root.shards, "test")
    scores = judged_of(classifier, shards)
    assert scores["id"].tolist() == MemeShards(shards, pictures=False).ids
    assert scores["prob_hate"][:3].tolist() == pytest.approx(again["prob_hate"].tolist(), abs=1e-5)
    assert {"label", "threshold", "decision", "review", "text_expert_prob"} <= set(scores)
    assert (scores["review"] == (scores["decision"] == "review")).all()


def test_demo_passes_over_memes_whose_text_predict_refuses(full_root, classifier, monkeypatch):
    first, second = demo_memes(full_root, n=2).text
    assert len(first) != len(second)
    monkeypatch.setattr(demo_module, "length_of", len)
    monkeypatch.setattr(demo_module, "MOST_TEXT", len(first) - 1)
    texts = demo_memes(full_root, n=2).text
    assert len(texts) == 2
    assert all(len(text) < len(first) for text in texts)


def test_a_refused_meme_leaves_no_thread_behind(classifier):
    with pytest.raises(ValueError, match="meme 0 of 40") as kept:
        classifier.predict_batch([7, *["monday"] * 39], [None] * 40)
    # The traceback, which holds what was going on, is still there.
    assert kept.tb is not None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


def test_a_packed_meme_with_a_long_transcript_is_judged(classifier, monkeypatch):
    said = combined_text("monday", asr="and again " * 3000)
    samples = [
        {"id": str(n), "text": text, "image": blank_picture()}
        for n, text in enumerate([said, combined_text("soup")])
    ]
    kept = SimpleNamespace(batched=lambda size, collation_fn: [samples])
    monkeypatch.setattr(shards_module, "stream", lambda shards: kept)
    (scores,) = shards_module._judged(classifier, ["shard"])
    assert scores["text"].tolist() == [said, combined_text("soup")]
    alone = classifier.predict(combined_text("soup"), None)
    assert scores["prob_hate"][1] == pytest.approx(alone["prob_hate"], abs=1e-5)


def test_what_step_6_has_encoded_is_not_encoded_again(full_root, classifier, tmp_path, monkeypatch):
    shards = shard_paths(full_root.shards, "test")
    expected = judged_of(classifier, shards)
    paths = type(full_root).artifact
    monkeypatch.setattr(
        type(full_root),
        "artifact",
        lambda self, step, name: tmp_path / name if step == 8 else paths(self, step, name),
    )
    monkeypatch.setattr(shards_module, "_judged", None)
    read = MemeShards.texts.fget
    columns = []
    watched = property(lambda memes: columns.append(len(memes)) or read(memes))
    monkeypatch.setattr(MemeShards, "texts", watched)
    found = write_scores(classifier, full_root, rows=7)
    assert sum(columns) == found.n  # each text is read once
    written = pd.read_csv(tmp_path / "predictions.csv")
    assert found.n == len(written) == len(expected) == found.histograms.n
    for name in WORDS:
        assert sum(found.histograms.words[name].values()) == found.n
    decided = expected["decision"].value_counts()
    assert {w: n for w, n in found.histograms.words["decision"].items() if n} == decided.to_dict()
    assert found.histograms.words["text_from"]["given"] == found.n
    assert list(found.first.columns) == list(written.columns) == list(expected.columns)
    assert written["id"].tolist() == expected["id"].tolist()
    assert written["text"].tolist() == expected["text"].tolist()
    assert written["label"].tolist() == expected["label"].tolist()
    assert written["decision"].tolist() == expected["decision"].tolist()
    for column in ("prob_hate", "text_expert_prob", "vision_expert_prob"):
        assert written[column].tolist() == pytest.approx(expected[column].tolist(), abs=1e-5)


def test_predictions_that_were_not_decided_on_are_refused(full_root, classifier, tmp_path):
    settings = full_root.model_copy(update={"root": tmp_path / "copy"})
    ignored = shutil.ignore_patterns("features", "models", "Step_8")
    shutil.copytree(full_root.root, settings.root, ignore=ignored)
    file = settings.artifact(6, "predictions.parquet")
    table = pq.read_table(file)
    column = table.schema.get_field_index("mm_fusion_logit_1")
    changed = pc.add(table.column(column), 0.3)
    pq.write_table(table.set_column(column, "mm_fusion_logit_1", changed), file)
    with pytest.raises(ValueError, match=rf"{file} is not the file .*--from 7"):
        write_scores(classifier, settings)
    assert not settings.artifact(8, "predictions.csv").exists()


def test_other_models_logits_are_not_taken(full_root, classifier, tmp_path, monkeypatch):
    others = classifier.decision.fingerprints | {"mm_fusion": "other"}
    other = MemeClassifier(classifier.model, replace(classifier.decision, fingerprints=others))
    shards = shard_paths(full_root.shards, "test")
    assert shards_module._known(classifier, full_root, shards)
    assert not shards_module._known(other, full_root, shards)
    engine = {"text_expert": "onnxruntime", "vision_expert": "float32"}
    measured = MemeClassifier(classifier.model, classifier.decision, engine)
    assert not shards_module._known(measured, full_root, shards)
    with monkeypatch.context() as in_half_precision:
        in_half_precision.setattr(classifier.model.encoders, "bf16", True)
        assert not shards_module._known(classifier, full_root, shards)
    assert not shards_module._known(classifier, full_root, shard_paths(full_root.shards, "val"))


def test_the_program_prints_json_or_one_line(full_root, monkeypatch, capsys, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    program = ["serving", "--mode", "full", "--root", str(full_root.root), "--text", TEXT]
    monkeypatch.setattr(sys, "argv", [*program, "--image", str(tmp_path / "a.png")])
    program_of.main()
    assert json.loads(capsys.readouterr().out).keys() >= {"prob_hate", "label"}
    monkeypatch.setattr(sys, "argv", [*program, "--image", str(tmp_path / "b.png")])
    with pytest.raises(SystemExit, match=r"^error: .*b\.png"):
        program_of.main()


def test_models_of_the_answer_are_the_documented_three(classifier):
    assert set(classifier.decision.temperatures) == set(MODELS)


def test_loading_needs_nothing_of_the_training_stack(full_root):
    heavy = "transformers.trainer peft matplotlib papermill lib.data.readers lib.data.packing"
    heavy += " lib.modeling.experts lib.modeling.expert_trainer lib.modeling.fusion_training"
    program = (
        "import sys\nfrom lib.serving import MemeClassifier\n"
        "MemeClassifier.load(sys.argv[1], 'full')\n"
        f"print(*(name for name in {heavy.split()} if name in sys.modules))"
    )
    command = [sys.executable, "-c", program, str(full_root.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr
