import itertools
import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit
from sklearn.metrics import f1_score
from transformers import AutoModel

from lib.emotions.classifier import DEFAULT_THRESHOLD, BERTEmotionClassifier
from lib.emotions.data import LABEL_COUNTS, LABELS, read_labels, read_tsv
from lib.emotions.encoding import encode, normalise
from lib.emotions.f1 import best_constant_f1, multilabel_f1, smoothed_thresholds
from lib.emotions.generated import generate
from lib.emotions.splits import load_split

MULTI_HOT = arrays(np.uint8, st.tuples(st.integers(2, 12), st.just(4)), elements=st.integers(0, 1))


@pytest.fixture(scope="module")
def backbone(save_tiny_bert, tmp_path_factory):
    return str(save_tiny_bert(tmp_path_factory.mktemp("backbone")))


@pytest.fixture
def model(backbone):
    torch.manual_seed(0)
    return BERTEmotionClassifier(backbone)


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_a_temperature_that_is_not_positive_is_refused(model, temperature):
    with pytest.raises(ValueError, match="temperature"):
        model.set_temperature(temperature)
    assert model.temperature.item() == 1


@pytest.mark.parametrize("threshold", [0, 1.01, float("nan"), [0.5] * 27, [0.5] * 27 + [0.0]])
def test_a_threshold_outside_its_range_is_refused(model, threshold):
    with pytest.raises(ValueError, match="threshold"):
        model.set_threshold(threshold)
    assert (model.prediction_threshold == DEFAULT_THRESHOLD).all()


def test_the_temperature_divides_logits_once_and_only_in_predict_proba(model):
    texts = ["thank you", "oh no!"]
    logits = model.logits(texts)
    in_place = model.temperature
    model.set_temperature(2.0)
    assert model.temperature is in_place
    np.testing.assert_array_equal(model.logits(texts), logits)
    np.testing.assert_allclose(model.predict_proba(texts), expit(logits / 2.0), rtol=1e-6)


def test_forward_gives_the_logits_of_a_batch(model):
    batch = model.tokenizer(["thank you", "hello"], padding=True, return_tensors="pt")
    got = model.eval()(**batch)
    assert got.shape == (2, 28)
    alone = model(model.tokenizer("thank you", return_tensors="pt")["input_ids"])
    torch.testing.assert_close(alone, got[:1])
    np.testing.assert_allclose(
        got.detach(), model.logits(["thank you", "hello"]), rtol=1e-5, atol=1e-6
    )


def test_predict_names_the_labels_that_reach_their_own_threshold(model):
    prob = model.predict_proba(["fine"])[0]
    cuts = np.full(28, 1.0)
    cuts[3], cuts[5] = prob[3], np.nextafter(prob[5], 1)
    model.set_threshold(cuts)
    assert model.predict(["fine"]) == [[LABELS[3]]]


def test_a_text_keeps_its_logits_among_longer_texts(model):
    texts = ["short", "a far longer text, with many words in it!", "mid size text"]
    together = model.logits(texts, batch_size=3)
    alone = np.vstack([model.logits([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_one_string_is_not_read_letter_by_letter(model):
    with pytest.raises(TypeError, match="a list of texts"):
        model.predict("thank you")


def test_what_is_saved_loads_with_temperature_and_thresholds(model, tmp_path):
    model.set_temperature(1.7)
    model.set_threshold(np.linspace(0.1, 0.9, 28))
    model.save(tmp_path / "saved")
    loaded = BERTEmotionClassifier.load(tmp_path / "saved")
    assert loaded.names == LABELS
    assert loaded.temperature.item() == 1.7
    np.testing.assert_array_equal(loaded.prediction_threshold, np.linspace(0.1, 0.9, 28))
    np.testing.assert_array_equal(loaded.logits(["hello"]), model.logits(["hello"]))


def test_half_precision_on_the_disk_is_single_precision_here(save_tiny_bert, tmp_path):
    backbone = save_tiny_bert(tmp_path / "backbone")
    AutoModel.from_pretrained(backbone).half().save_pretrained(backbone)
    model = BERTEmotionClassifier(str(backbone))
    model.encoder.config.dtype = torch.float16
    model.save(tmp_path / "model")
    for found in (model, BERTEmotionClassifier.load(tmp_path / "model")):
        assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
        for parameter in found.parameters():
            parameter.grad = torch.zeros_like(parameter)
        torch.optim.AdamW(found.parameters(), lr=1e-4).step()
        assert all(parameter.isfinite().all() for parameter in found.parameters())


def test_the_thresholds_stay_exact_on_any_device(model):
    model.set_threshold(0.6)
    assert model.half().prediction_threshold.dtype == torch.float64
    assert model.float().prediction_threshold.tolist() == [0.6] * len(model.names)


def test_update_keeps_the_previous_weights_beside(model, saved):
    before = (saved / "model.safetensors").read_bytes()
    model.set_threshold(0.3)
    model.update(saved)
    assert (saved / "model.safetensors.bak").read_bytes() == before
    assert (BERTEmotionClassifier.load(saved).prediction_threshold == 0.3).all()


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_update_that_dies_at_a_rename_leaves_a_checkpoint_that_loads(
    model, saved, monkeypatch, call, when
):
    rename, calls = os.replace, itertools.count(1)

    def dying(source, target):
        last = next(calls) == call
        if last and when == "before":
            raise KeyboardInterrupt
        rename(source, target)
        if last:
            raise KeyboardInterrupt

    model.set_threshold(0.3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", dying)
        model.update(saved)
    cuts = BERTEmotionClassifier.load(saved).prediction_threshold
    assert (cuts == (0.3 if (call, when) == (2, "after") else DEFAULT_THRESHOLD)).all()


def test_a_missing_checkpoint_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*train_emotion_model\.py"):
        BERTEmotionClassifier.load(tmp_path / "nowhere")


def test_a_checkpoint_without_its_tokenizer_is_refused(saved):
    (saved / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json.*train_emotion_model\.py"):
        BERTEmotionClassifier.load(saved)


def test_a_checkpoint_of_another_architecture_is_refused(backbone):
    with pytest.raises(ValueError, match=r"config\.json: architectures is \['BertModel'\]"):
        BERTEmotionClassifier.load(backbone)


def test_weights_that_do_not_fit_the_config_are_refused(saved):
    config = json.loads((saved / "config.json").read_text())
    config["id2label"] = {"0": "calm", "1": "upset"}
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"model\.safetensors: head\.bias is \(28,\)"):
        BERTEmotionClassifier.load(saved)


def test_damaged_weights_are_refused(saved):
    (saved / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match="is damaged"):
        BERTEmotionClassifier.load(saved)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"only text", "1 tab-separated fields"),
        (b"text\t1\tid\textra", "4 tab-separated fields"),
        (b"text\t28\tid", "label id 28 is out of range 0 to 27"),
        (b"text\t-1\tid", "label id '-1' is not a number"),
        (b"text\t\tid", "label id '' is not a number"),
        (b"text\t1;2\tid", "label id '1;2' is not a number"),
        (b" \t1\tid", "the text is empty"),
        (b"", "1 tab-separated fields"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_number(tmp_path, line, complaint):
    file = tmp_path / "dev.tsv"
    file.write_bytes(b"fine\t0\ta1\n" + line + b"\nfine\t0\ta2\n")
    with pytest.raises(ValueError, match=rf"dev\.tsv, line 2: {complaint}"):
        read_tsv(file)


@pytest.mark.parametrize(
    ("content", "complaint"), [(b"", "is empty"), (b"caf\xe9\t1\ta\n", "is not UTF-8")]
)
def test_a_file_that_holds_no_text_is_refused(tmp_path, content, complaint):
    file = tmp_path / "dev.tsv"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"dev\.tsv {complaint}"):
        read_tsv(file)


def test_rows_are_read_as_they_were_written(tmp_path):
    file = tmp_path / "dev.tsv"
    file.write_bytes('one\u2028line\t2,27\ta\r\n"quoted\x85"\t0\tb\n'.encode())
    data = read_tsv(file)
    assert data.texts == ["one\u2028line", '"quoted\x85"']
    assert [list(np.flatnonzero(row)) for row in data.labels] == [[2, 27], [0]]


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfjoy\r\nanger\r\n")
    (tmp_path / "dev.tsv").write_bytes(b"\xef\xbb\xbffine\t0\ta\n")
    names = read_labels(tmp_path / "labels.txt")
    assert names == ("joy", "anger")
    assert read_tsv(tmp_path / "dev.tsv", names).texts == ["fine"]
    (tmp_path / "dev.tsv").write_bytes(b"\xef\xbb\xbfcaf\xe9\t0\ta\n")
    with pytest.raises(ValueError, match=r"dev\.tsv is not UTF-8 \(byte 6\)"):
        read_tsv(tmp_path / "dev.tsv", names)


def test_labels_come_from_the_folder(tmp_path):
    (tmp_path / "labels.txt").write_text("calm\nupset\n")
    (tmp_path / "test.tsv").write_text("hm\t1\ta\n")
    data = load_split(tmp_path, "test")
    assert data.names == ("calm", "upset")
    assert data.labels.tolist() == [[0, 1]]
    for faulty in ("calm\ncalm\n", "calm\n\nupset\n", ""):
        (tmp_path / "labels.txt").write_text(faulty)
        with pytest.raises(ValueError, match="each label once"):
            read_labels(tmp_path / "labels.txt")


def test_a_missing_folder_file_or_split_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_split(tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match=r"train\.tsv"):
        load_split(tmp_path, "train")
    with pytest.raises(ValueError, match="'valid' is unknown"):
        load_split(tmp_path, "valid")


def test_the_halves_of_dev_share_no_text_and_share_rare_labels(tmp_path):
    made = generate(400, seed=3)
    lines = [
        f"{text}\t{','.join(map(str, np.flatnonzero(row)))}\tid{i}\n"
        for i, (text, row) in enumerate(zip(made.texts, made.labels, strict=True))
    ]
    repeated = [line.upper() for line in lines[:50]]
    (tmp_path / "dev.tsv").write_text("".join(lines + repeated))
    tune, report = (load_split(tmp_path, half) for half in ("tune", "report"))
    assert len(tune) + len(report) == 450
    assert not {t.lower() for t in tune.texts} & {t.lower() for t in report.texts}
    rare = made.labels.sum(axis=0) <= 8
    assert rare.any()
    sums = [half.labels.sum(axis=0, dtype=int) for half in (tune, report)]
    assert (np.abs(sums[0] - sums[1])[rare] <= 3).all()


def test_generated_sentences_follow_the_seed_and_the_imbalance():
    data = generate(3000, seed=1)
    assert generate(3000, seed=1).texts == data.texts
    assert generate(3000, seed=2).texts != data.texts
    counts = data.labels.sum(axis=0)
    assert counts.min() >= 1
    assert np.corrcoef(counts, list(LABEL_COUNTS.values()))[0, 1] > 0.95


def test_generated_splits_differ():
    train, test = load_split(None, "train"), load_split(None, "test")
    assert train.texts[:100] != test.texts[:100]


def test_emoji_are_spelt_out(model):
    assert normalise("ok \U0001f602") == "ok  face with tears of joy "
    unknown = model.tokenizer.unk_token_id
    assert unknown not in encode(model.tokenizer, "ok \U0001f602")["input_ids"]


def test_long_texts_are_cut(model):
    assert len(encode(model.tokenizer, "word " * 500)["input_ids"]) == 64


@given(MULTI_HOT, st.randoms(use_true_random=False))
def test_f1_is_scikit_learns(labels, random):
    decided = labels.copy()
    for cell in range(decided.size):
        if random.random() < 0.3:
            decided.flat[cell] ^= 1
    for average in ("macro", "micro"):
        expected = f1_score(labels, decided, average=average, zero_division=0)
        assert multilabel_f1(decided, labels, average) == pytest.approx(expected)


@settings(max_examples=30)
@given(MULTI_HOT)
def test_no_constant_prediction_beats_the_best(labels):
    for average in ("macro", "micro"):
        every = (
            multilabel_f1(np.broadcast_to(told, labels.shape), labels, average)
            for told in itertools.product([0, 1], repeat=4)
        )
        assert best_constant_f1(labels, average) == pytest.approx(max(every))


def calibrated(n=40_000, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal([-3.0, -1.0, 0.0], [2.0, 1.5, 2.0], size=(n, 3))
    return logits, (rng.random((n, 3)) < expit(logits)).astype(np.uint8)


def test_the_smoothed_cut_of_calibrated_scores_is_half_the_best_f1():
    # Lipton, Elkan and Naryanaswamy (2014), "Thresholding Classifiers to Maximize F1 Score".
    logits, labels = calibrated()
    cuts = smoothed_thresholds(logits, labels, strength=1e9, width=0.01)
    f1 = f1_score(labels, expit(logits) >= cuts, average=None)
    np.testing.assert_allclose(cuts, f1 / 2, atol=0.02)


def test_smoothed_cuts_vary_less_than_exact_ones():
    def spread(rule):
        draws = [rule(*calibrated(120, seed)) for seed in range(20)]
        return np.std(draws, axis=0)

    smooth = spread(smoothed_thresholds)
    rough = spread(lambda z, y: smoothed_thresholds(z, y, strength=0.001, width=0.01))
    assert (smooth < rough).all()


def test_a_label_without_positives_gets_a_cut():
    logits, labels = calibrated(50)
    labels[:, 0] = 0
    cuts = smoothed_thresholds(logits, labels)
    assert ((cuts > 0) & (cuts < 1)).all()
