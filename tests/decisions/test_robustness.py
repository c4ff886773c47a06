from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from lib.calibration import prob_hate
from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.decisions import robustness as robustness_module
from lib.decisions.bundle import DecisionBundle
from lib.decisions.calibration_tables import calibrated
from lib.decisions.perturbations import (
    IMAGE_PERTURBATIONS,
    SEVERITIES,
    TEXT_PERTURBATIONS,
    Perturbation,
)
from lib.decisions.policy import Policy
from lib.decisions.robustness import (
    Modality,
    robustness,
    robustness_table,
    stratified_rows,
)
from lib.modeling.fusion import load_fusion
from lib.modeling.prediction_table import read_predictions

UNCHANGED = Perturbation(lambda item, rng, level: item, dict.fromkeys(SEVERITIES, 0.0))


@pytest.fixture(scope="module")
def parts(full_root):
    memes = MemeShards(shard_paths(full_root.shards, "test"))
    samples = [memes[i] for i in range(8)]
    return load_fusion(full_root.models, "cpu"), samples, DecisionBundle.load(full_root)


@pytest.fixture(scope="module")
def table(parts):
    return robustness_table(*parts)


def test_every_perturbation_and_severity_has_a_row_for_every_model(parts, table):
    perturbations = TEXT_PERTURBATIONS | IMAGE_PERTURBATIONS
    expected = {("none", 0)} | {(name, s) for name, p in perturbations.items() for s in p.levels}
    keys = list(zip(table["perturbation"], table["severity"], strict=True))
    assert set(keys) == expected and len(keys) == 3 * len(expected)
    assert set(table["n"]) == {8}
    plain = table[table["perturbation"] == "none"]
    changes = ["macro_f1_change", "auroc_change", "ece_change", "flips"]
    assert (plain[changes] == 0).all(axis=None)
    for metric in ("ece", "auroc", "macro_f1"):
        ends = table[[f"{metric}_change_low", f"{metric}_change_high"]]
        assert (ends.loc[plain.index] == 0).all(axis=None)
        assert (ends.iloc[:, 0] <= table[f"{metric}_change"] + 1e-9).all()
        assert (ends.iloc[:, 1] >= table[f"{metric}_change"] - 1e-9).all()
    turned = table["flips"] > 0
    assert (ends[turned].iloc[:, 0] < ends[turned].iloc[:, 1]).all()
    apart = table.groupby("perturbation")["may_change_label"].first()
    assert {name for name, may in apart.items() if may} == {
        *("text: words lost", "text: removed", "image: grey", "image: removed")
    }


def test_the_same_seed_gives_the_same_table_with_any_number_of_workers(parts, monkeypatch):
    few(monkeypatch, "text: typos", "image: noise")
    tables = [robustness_table(*parts, seed=3, workers=workers) for workers in (0, 0, 2)]
    for other in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], other, check_exact=True)


def test_the_worst_case_of_fusion_stands_first_and_label_changing_edits_at_the_end(table):
    fusion = table[table["model"] == "mm_fusion"].reset_index(drop=True)
    assert fusion["perturbation"][0] == "none"
    assert fusion["may_change_label"].is_monotonic_increasing
    for _, rows in fusion[1:].groupby("may_change_label"):
        assert rows["macro_f1_change"].is_monotonic_increasing


def test_a_perturbation_of_one_modality_leaves_the_other_expert_alone(table):
    table = table.set_index("model")
    of = table["perturbation"].str.startswith
    for model, kind in (("vision_expert", "text:"), ("text_expert", "image:")):
        rows = table[of(kind)].loc[model]
        changes = ["macro_f1_change", "auroc_change", "ece_change", "flips"]
        assert (rows[changes] == 0).all(axis=None)


def few(monkeypatch, *names):
    """Let these perturbations alone be tried."""
    for kind in ("TEXT", "IMAGE"):
        table = f"{kind}_PERTURBATIONS"
        known = {**getattr(robustness_module, table), f"{kind.lower()}: none": UNCHANGED}
        kept = {name: known[name] for name in names if name in known}
        monkeypatch.setattr(robustness_module, table, kept)


def test_an_encoder_runs_on_what_changed_alone(parts, monkeypatch):
    model, samples, decision = parts
    seen = {"text": 0, "vision": 0}

    def counted(name, encode):
        def encoded(items, *how):
            seen[name] += len(items)
            return encode(items, *how)

        return encoded

    for name, method in (("text", "encode_texts"), ("vision", "encode_images")):
        encode = counted(name, getattr(model.encoders, method))
        monkeypatch.setattr(model.encoders, method, encode)
    with monkeypatch.context() as patch:
        few(patch, "text: misread", "text: none")
        robustness_table(model, samples, decision)
    # The pictures once as they are; the texts so, and at each severity those that it changed.
    distinct = len({s["image"].tobytes() for s in samples})
    assert seen["vision"] == distinct
    assert 8 < seen["text"] <= 8 * 4
    seen |= {"text": 0, "vision": 0}
    few(monkeypatch, "image: flip", "image: none")
    robustness_table(model, samples, decision)
    assert seen["text"] == len({s["text"] for s in samples})
    assert seen["vision"] == 4 * distinct


def test_what_is_not_encoded_again_is_as_if_it_were(parts, table, monkeypatch):
    few(monkeypatch)
    model, samples, decision = parts
    perturbation = TEXT_PERTURBATIONS["text: misread"]
    generators = np.random.default_rng(0).spawn(len(samples))
    changed = [
        sample | {"text": perturbation(sample["text"], rng, 2)}
        for sample, rng in zip(samples, generators, strict=True)
    ]
    naive = robustness_table(model, changed, decision)
    naive = naive[naive["perturbation"] == "none"].set_index("model")
    row = (table["perturbation"] == "text: misread") & (table["severity"] == 2)
    found = table[row].set_index("model")
    for metric in ("macro_f1", "auroc", "ece"):
        assert found[metric].tolist() == pytest.approx(naive[metric].tolist(), abs=1e-6)


def test_tokens_of_longer_and_shorter_texts_are_of_one_width():
    def encode(texts):
        listed = list(texts)
        masks = [torch.ones(len(text)) for text in listed]
        mask = pad_sequence(masks, batch_first=True) if listed else torch.empty(0, 0)
        return {"text_mask": mask, "text_tokens": mask.unsqueeze(-1)} if listed else {}

    longer = Perturbation(lambda text, rng, level: text * 3 if text == "ab" else text, {1: 0.0})
    found = Modality(["ab", "abcd"], encode, str).perturbed(longer, 1, seed=0)
    assert found["text_mask"].tolist() == [[1] * 6, [1, 1, 1, 1, 0, 0]]
    assert found["text_tokens"].shape == (2, 6, 1)


def test_of_many_memes_every_second_picture_is_perturbed(parts, monkeypatch):
    monkeypatch.setattr(robustness_module, "ALL_PICTURES", 7)
    few(monkeypatch, "image: none")
    model, samples, decision = parts
    assert len(set(s["label"] for s in samples[::2])) == 2
    table = robustness_table(model, samples, decision)
    assert table.groupby("perturbation")["n"].first().to_dict() == {"none": 8, "image: none": 4}
    # Against the same four memes, not against all eight.
    assert (table[["macro_f1_change", "auroc_change", "ece_change", "flips"]] == 0).all(axis=None)


def test_every_change_can_be_computed_from_the_unperturbed_rows_of_its_memes(parts, monkeypatch):
    monkeypatch.setattr(robustness_module, "ALL_PICTURES", 7)
    few(monkeypatch, "text: removed", "image: noise")
    table = robustness_table(*parts)
    plain = table[table["perturbation"] == "none"]
    assert plain["n"].tolist() == [8, 8, 8, 4, 4, 4]
    assert (table.index[table["perturbation"] == "none"] == range(6)).all()
    before = plain.set_index(["model", "n"])
    for row in table[table["severity"] > 0].to_dict("records"):
        for metric in ("macro_f1", "auroc", "ece"):
            was = before.loc[(row["model"], row["n"]), metric]
            assert row[f"{metric}_change"] == pytest.approx(row[metric] - was)


def test_blocked_memes_that_are_allowed_now_are_counted(parts, monkeypatch):
    model, samples, decision = parts
    everything = TEXT_PERTURBATIONS["text: removed"]
    few(monkeypatch, "text: removed")
    texts, images = ([s[key] for s in samples] for key in ("text", "image"))
    bare = [everything(text, np.random.default_rng(0), 3) for text in texts]
    probs = [
        prob_hate(model(shown, images)["mm_fusion"].double(), decision.temperatures["mm_fusion"])
        for shown in (texts, bare)
    ]
    # Cuts between which one of the blocked memes falls, so that not all of them are allowed.
    block = float(np.median(probs[0]))
    allow = float(np.quantile(probs[1][probs[0] >= block], 0.5))
    policy = replace(Policy.at_threshold(block), allow=min(allow, block))
    table = robustness_table(model, samples, replace(decision, policy=policy))
    row = table[(table["perturbation"] == "text: removed") & (table["model"] == "mm_fusion")]
    blocked = policy.decide(probs[0]) == "block"
    expected = (policy.decide(probs[1])[blocked] == "allow").mean()
    assert row["block_to_allow"].tolist() == pytest.approx([expected])
    assert row["block_to_allow_low"].item() <= expected <= row["block_to_allow_high"].item()
    assert row["block_to_allow_low"].item() < row["block_to_allow_high"].item()
    assert row["decided_by"].tolist() == ["policy"]
    none = table[(table["perturbation"] == "none") & (table["model"] == "mm_fusion")].iloc[0]
    assert none["block_to_allow"] == none["block_to_allow_low"] == 0 < none["block_to_allow_high"]


def test_a_policy_that_blocks_nothing_leaves_it_to_the_threshold(parts, monkeypatch):
    model, samples, decision = parts
    few(monkeypatch, "text: removed")
    policy = replace(decision.policy, allow=None, block=None)
    none = robustness_table(model, samples, replace(decision, policy=policy))
    cut = Policy.at_threshold(decision.thresholds["mm_fusion"])
    threshold = robustness_table(model, samples, replace(decision, policy=cut))
    assert set(none["decided_by"]) == {"threshold"}
    columns = ["perturbation", "model", "block_to_allow"]
    pd.testing.assert_frame_equal(none[columns], threshold[columns])
    never = replace(decision, thresholds=dict.fromkeys(MODELS, 1.0), policy=policy)
    assert robustness_table(model, samples, never)["block_to_allow"].isna().all()


def test_unperturbed_decisions_are_those_of_step_7(full_root, parts, table):
    _, samples, decision = parts
    frame = read_predictions(full_root, "test").set_index("id").loc[[s["id"] for s in samples]]
    prob = calibrated(frame, decision.temperatures)
    for name in MODELS:
        right = (prob[name] >= decision.thresholds[name]).to_numpy() == frame["label"].to_numpy()
        row = table[(table["perturbation"] == "none") & (table["model"] == name)].iloc[0]
        assert (row["macro_f1"] == 1) == right.all()


def test_no_memes_are_refused(parts):
    with pytest.raises(ValueError, match="at least one meme"):
        robustness_table(parts[0], [], parts[2])


def test_the_memes_are_a_seeded_sample_of_both_classes():
    labels = [0] * 90 + [1] * 30
    rows = stratified_rows(labels, 40, seed=0)
    assert len(set(rows)) == 40
    assert rows == sorted(rows) == stratified_rows(labels, 40, seed=0)
    assert sum(labels[row] for row in rows) == 10
    assert rows != stratified_rows(labels, 40, seed=1)


@pytest.mark.parametrize("labels", [[0] * 9 + [1], [0] * 10])
def test_a_class_too_rare_to_divide_is_drawn_by_chance(labels):
    assert len(stratified_rows(labels, 4, seed=0)) == 4
    assert stratified_rows(labels, 10, seed=0) == list(range(10))


def test_an_equal_table_is_not_made_again(full_root, tmp_path, monkeypatch):
    few(monkeypatch, "text: typos")
    decision, made = DecisionBundle.load(full_root), []

    def watched(*given):
        made.append(1)
        return table(*given)

    table = robustness_module.robustness_table
    monkeypatch.setattr(robustness_module, "robustness_table", watched)
    monkeypatch.setattr(Settings, "artifact", lambda self, step, name: tmp_path / name)
    settings = full_root.model_copy(update={"robustness_memes": 4})
    first, again = (robustness(settings, decision) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert len(made) == 1
    moved = replace(decision, thresholds=decision.thresholds | {"mm_fusion": 0.123})
    robustness(settings, moved)
    assert len(made) == 2
    edited = tmp_path / "perturbations.py"
    edited.write_text("edited")
    monkeypatch.setattr(robustness_module, "CODE", (edited,))
    robustness(settings, moved)
    assert len(made) == 3
    # Killed before it says what the new table was made from, it is not taken for the one before.
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(robustness_module, "write_json", interrupted)
        robustness(settings, decision)
    robustness(settings, moved)
    assert len(made) == 5


def interrupted(*_):
    raise KeyboardInterrupt
