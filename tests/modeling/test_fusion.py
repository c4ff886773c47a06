import json
import math
import pickle
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from lib.artifacts import fingerprint, write_json
from lib.config import Settings
from lib.modeling import fusion, fusion_training
from lib.modeling.encoders import EXPERTS, Encoders
from lib.modeling.features import Features
from lib.modeling.fusion import FusionModel, load_fusion, model_logits, save_fusion
from lib.modeling.fusion_training import (
    choose_head,
    compare_heads,
    compare_models,
    fusion_config,
    goodness_of,
    head_scores,
    train_fusion,
)
from lib.modeling.heads import FusionConfig, FusionHead, build_head
from lib.modeling.predictions import feature_logits

KINDS = ("concat", "align", "align_concat", "bilinear", "cross_attention")
T, V, HIDDEN = 6, 5, 8
# The experts' features are all that these heads read.
NO_ENCODERS = Encoders({})


def features(n=40, seed=0, tokens=True) -> Features:
    """Random features whose label is the sign of text x vision: no single one shows it."""
    rng = torch.Generator().manual_seed(seed)
    text, vision = (torch.randn(n, width, generator=rng) for width in (T, V))
    labels = (text[:, 0] * vision[:, 0] > 0).long()
    arrays = {
        "text_logits": torch.randn(n, 2, generator=rng),
        "vision_logits": torch.randn(n, 2, generator=rng),
        "text_cls": text,
        "text_mean": text,
        "vision_pooled": vision,
    }
    if tokens:
        arrays["text_tokens"] = text.unsqueeze(1).repeat(1, 4, 1)
        arrays["text_mask"] = torch.ones(n, 4)
        arrays["vision_patches"] = vision.unsqueeze(1).repeat(1, 3, 1)
    return Features([f"m{i}" for i in range(n)], labels, arrays)


def config(head="concat", **changed) -> FusionConfig:
    kind = {"head": head, "text_feature": "cls", "vision_feature": "pooled"}
    return FusionConfig(**kind | {"text_dim": T, "vision_dim": V, "hidden": HIDDEN} | changed)


def inputs(head: FusionHead, found: Features) -> list[torch.Tensor]:
    return [found.arrays[name] for name in head.config.inputs]


@pytest.fixture
def settings(tmp_path) -> Settings:
    """A root whose experts are two folders with a file each: heads know them by fingerprint."""
    for name in EXPERTS:
        (tmp_path / "models/full" / name).mkdir(parents=True)
        (tmp_path / "models/full" / name / "model.safetensors").write_bytes(name.encode())
    return Settings(
        mode="full",
        root=tmp_path,
        fusion_features="experts",
        fusion_hidden=HIDDEN,
        fusion_epochs=4,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_gives_two_logits_and_learns_everywhere(kind):
    head, found = build_head(config(kind)), features()
    logits = head(*inputs(head, found))
    assert logits.shape == (40, 2)
    cross_entropy(logits, found.labels).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_concat_is_the_documented_network():
    torch.manual_seed(0)
    head, found = build_head(config()).eval(), features()
    assert [type(layer).__name__ for layer in head.mlp] == ["Linear", "GELU", "Dropout", "Linear"]
    text, vision = inputs(head, found)
    torch.testing.assert_close(head(text, vision), head.mlp(torch.cat([text, vision], 1)))


def test_align_reads_directions_alone():
    head = build_head(config("align")).eval()
    torch.nn.init.zeros_(head.project_text.bias)
    torch.nn.init.zeros_(head.project_vision.bias)
    text, vision = inputs(head, features())
    torch.testing.assert_close(head(7 * text, vision), head(text, 3 * vision))


def test_padding_does_not_change_cross_attention():
    head, found = build_head(config("cross_attention")).eval(), features()
    head.scales[0].mean.uniform_(-1, 1)
    text, vision, mask = inputs(head, found)
    padded = torch.cat([text, torch.full_like(text, 9.0)], 1)
    longer = torch.cat([mask, torch.zeros_like(mask)], 1)
    torch.testing.assert_close(head(padded, vision, longer), head(text, vision, mask))


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_any_scale_are_standardised(kind, settings):
    found = features()
    scaled = {
        name: 1000 * x + 50 if x.ndim > 1 and "mask" not in name else x
        for name, x in found.arrays.items()
    }
    plain = train_fusion(found, config(kind), settings)
    large = train_fusion(Features(found.ids, found.labels, scaled), config(kind), settings)
    ours, theirs = (
        run.head(*inputs(run.head, f))
        for run, f in ((plain, found), (large, Features(found.ids, found.labels, scaled)))
    )
    torch.testing.assert_close(ours, theirs, atol=0.01, rtol=0.01)


def test_standardisation_counts_real_tokens_alone(settings):
    found = features()
    arrays = dict(found.arrays)
    arrays["text_mask"] = torch.cat([torch.ones(40, 2), torch.zeros(40, 2)], 1)
    arrays["text_tokens"] = arrays["text_tokens"].clone()
    arrays["text_tokens"][:, 2:] = 1e6
    head = train_fusion(
        Features(found.ids, found.labels, arrays), config("cross_attention"), settings
    ).head
    torch.testing.assert_close(head.scales[0].mean, found.arrays["text_cls"].mean(0))
    assert head.scales[0].std.max() < 10


def test_a_constant_feature_does_no_harm(settings):
    found = features()
    found.arrays["text_cls"][:, 1] = 3.0
    run = train_fusion(found, config(), settings)
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in run.history)


def test_fusion_learns_what_no_single_modality_shows(settings):
    train, val = features(600, 1), features(200, 2)
    changed = {"fusion_epochs": 60, "fusion_hidden": 64, "fusion_l2": 0.01}
    settings = settings.model_copy(update=changed)
    run = train_fusion(train, config(hidden=64), settings, val)
    table = compare_models(run.head, val)
    assert table.loc["mm_fusion", "accuracy"] > 0.8
    assert table.loc[["text_expert", "vision_expert"], "accuracy"].max() < 0.65
    assert run.history[-1]["loss"] < run.history[0]["loss"] / 2


def with_altered(found: Features) -> Features:
    """What the picture shows first stands in its second column alone where it is altered."""
    altered = found.arrays["vision_pooled"].clone()
    altered[:, 1] = 2 * altered[:, 0]
    altered[:, 0] = 0
    return found.with_altered(vision_pooled=altered)


def test_a_head_learns_from_altered_pictures_too(settings):
    settings = settings.model_copy(update={"fusion_epochs": 20})
    train, val = (features(n, seed, tokens=False) for n, seed in ((600, 1), (200, 2)))
    # Told by the picture alone.
    train, val = (
        replace(f, labels=(f.arrays["vision_pooled"][:, 0] > 0).long()) for f in (train, val)
    )
    altered = val.with_arrays(**with_altered(val).altered)
    heads = [train_fusion(each, config(), settings).head for each in (train, with_altered(train))]
    of_plain, of_both = (
        [compare_models(head, shown).loc["mm_fusion", "accuracy"] for shown in (val, altered)]
        for head in heads
    )
    assert of_both[0] > 0.8 and of_both[1] > 0.9
    assert of_plain[1] < 0.7


def test_memes_as_met_and_altered_stand_one_behind_the_other():
    plain = features(6, tokens=False)
    both = with_altered(plain).as_met_and_altered()
    assert both.ids == plain.ids * 2
    assert torch.equal(both.labels, torch.cat([plain.labels] * 2))
    for name, array in plain.arrays.items():
        altered = with_altered(plain).altered.get(name, array)
        assert torch.equal(both.arrays[name], torch.cat([array, altered]))
    rows = np.array([4, 1])
    few = with_altered(plain).take(rows)
    assert torch.equal(few.altered["vision_pooled"], both.arrays["vision_pooled"][6 + rows])
    assert plain.as_met_and_altered() is plain


def test_heads_are_compared_on_memes_as_they_are(settings):
    plain, val = features(40, tokens=False), features(40, 1, tokens=False)
    tables = [compare_heads(train, settings, val) for train in (plain, with_altered(plain))]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize(
    ("select_by", "values"),
    [
        ("calibrated_loss", [0.6, 0.2, 0.2, 0.9]),
        ("log_loss", [0.6, 0.2, 0.2, 0.9]),
        ("auroc", [0.4, 0.9, 0.9, 0.1]),
        ("macro_f1", [0.4, 0.9, 0.9, 0.1]),
    ],
)
def test_the_epoch_best_on_val_is_kept(settings, monkeypatch, select_by, values):
    scores, states = iter(values), []

    def scripted(head, _):
        states.append({name: tensor.clone() for name, tensor in head.state_dict().items()})
        score = next(scores)
        return dict.fromkeys(("loss", "calibrated_loss", "auroc", "macro_f1"), score)

    monkeypatch.setattr(fusion_training, "head_scores", scripted)
    settings = settings.model_copy(update={"select_by": select_by})
    trained = train_fusion(features(), config(), settings, features(seed=1))
    for name, tensor in trained.head.state_dict().items():
        assert torch.equal(tensor, states[1][name])


def test_the_same_seed_gives_the_same_head_and_another_does_not(settings):
    one, two, other = (train_fusion(features(), config(), settings, seed=s) for s in (3, 3, 4))
    weights = [run.head.mlp[0].weight for run in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_several_heads_answer_with_the_mean_of_their_logits(settings):
    found, three = features(), config(members=3)
    run = train_fusion(found, three, settings, features(seed=1), seed=5)
    single = [train_fusion(found, config(), settings, features(seed=1), seed=s) for s in (5, 6, 7)]
    mean = sum(feature_logits(one.head, found)["mm_fusion"] for one in single) / 3
    torch.testing.assert_close(feature_logits(run.head, found)["mm_fusion"], mean)
    losses = [[entry["eval_loss"] for entry in one.history] for one in single]
    assert [entry["eval_loss"] for entry in run.history] == pytest.approx(
        pd.DataFrame(losses).mean().tolist()
    )


def test_val_of_one_class_chooses_by_its_loss_and_is_written(settings):
    by_auroc = settings.model_copy(update={"select_by": "auroc", "fusion_epochs": 4})
    val = features(seed=1)
    one = replace(val, labels=torch.ones_like(val.labels))
    run = train_fusion(features(), config(), by_auroc, one)
    losses = [entry["eval_calibrated_loss"] for entry in run.history]
    kept = head_scores(run.head, one)["calibrated_loss"]
    assert kept == pytest.approx(min(losses))
    assert all(math.isnan(entry["eval_auroc"]) for entry in run.history)
    assert goodness_of({"auroc": math.nan, "calibrated_loss": 0.3}, by_auroc) == -0.3
    folder = save_fusion(run, by_auroc, NO_ENCODERS)
    written = json.loads((folder / "history.json").read_text())
    assert [entry["eval_auroc"] for entry in written] == [None] * 4


def scored(n: int, seed: int, moved: float = 0.0) -> Features:
    """Features whose text logits tell the label, all of them `moved` towards hate."""
    found = features(n, seed, tokens=False)
    rng = torch.Generator().manual_seed(seed)
    margin = 2 * (2 * found.labels - 1) + 3 * torch.randn(n, generator=rng) + moved
    return found.with_arrays(text_logits=torch.stack([-margin / 2, margin / 2], dim=1))


def centre(run, val: Features) -> float:
    """The intercept of the logistic regression of val's labels on the head's margins."""
    logits = feature_logits(run.head, val)["mm_fusion"].double()
    margins = (logits[:, 1] - logits[:, 0]).numpy()[:, None]
    return LogisticRegression(C=1e6, tol=1e-8).fit(margins, val.labels.numpy()).intercept_[0]


@pytest.mark.parametrize(("kind", "members"), [("late", 1), ("concat", 1), ("concat", 3)])
def test_stacked_scores_that_lie_elsewhere_on_val_are_centred_there(settings, kind, members):
    train, val = scored(300, 0), scored(300, 1, moved=9.0)
    given = config(kind, stack=True, members=members)
    plain, centred = (train_fusion(train, given, settings, each) for each in (None, val))
    assert abs(centre(plain, val)) > 0.2
    assert centre(centred, val) == pytest.approx(0, abs=1e-3)


def test_a_shift_that_val_does_not_call_for_is_not_made(settings):
    train, val = scored(300, 0), scored(300, 1)
    given = config("late", stack=True)
    # Of one epoch the last is the best.
    once = settings.model_copy(update={"fusion_epochs": 1})
    plain, kept = (train_fusion(train, given, once, each) for each in (None, val))
    assert plain.head.stack.weights.bias.equal(kept.head.stack.weights.bias)


def test_a_val_of_one_class_centres_nothing(settings):
    train, val = scored(60, 0), scored(60, 1)
    one = val.take(val.labels.nonzero().squeeze(1).numpy())
    given = config("late", stack=True)
    plain = train_fusion(train, given, settings.model_copy(update={"fusion_epochs": 1}))
    same = train_fusion(train, given, settings.model_copy(update={"fusion_epochs": 1}), one)
    for name, tensor in plain.head.state_dict().items():
        assert torch.equal(tensor, same.head.state_dict()[name]), name


def test_weights_of_scores_alone_are_not_trained_over_seeds(settings):
    found = features()
    kinds = {"late": 1, "concat": settings.fusion_members}
    chosen = {kind: fusion_config(found, settings, head=kind).members for kind in kinds}
    assert chosen == kinds
    assert settings.fusion_members > 1


def test_a_loss_that_is_not_a_number_stops_with_a_way_out(settings):
    found = features()
    found.arrays["text_cls"][3] = torch.nan
    with pytest.raises(FloatingPointError, match=r"fusion loss is nan.*fusion_lr"):
        train_fusion(found, config(), settings)


def test_heads_are_compared_over_seeds_and_the_best_on_val_is_chosen(settings):
    settings = settings.model_copy(update={"fusion_head": "auto", "fusion_seeds": 2})
    train, val = features(60), features(60, 1)
    table = compare_heads(train, settings, val)
    assert set(table["head"]) == {*KINDS, "late"}
    assert set(table["scored_on"]) == {"val, select half"}
    table["loss"] = [0.1 if place == 2 else 0.9 for place in range(len(table))]
    chosen = choose_head(table, train, settings)
    assert chosen.head == table.loc[2, "head"]
    assert "cross_attention" not in set(compare_heads(features(tokens=False), settings)["head"])


def test_a_killed_comparison_goes_on_with_the_heads_that_are_missing(settings, monkeypatch):
    settings = settings.model_copy(update={"fusion_head": "auto", "fusion_seeds": 2})
    train, val = features(60), features(60, 1)
    # The heads learn in processes of their own: what they try is seen in a file.
    log = settings.root / "tried.txt"
    log.write_text("")

    def watched(*given, **how):
        with log.open("a") as file:
            file.write(f"{given[1].head}\n")
        if len(log.read_text().splitlines()) == 4:
            raise KeyboardInterrupt
        return train_fusion(*given, **how)

    monkeypatch.setattr(fusion_training, "train_fusion", watched)
    with pytest.raises(KeyboardInterrupt):
        compare_heads(train, settings, val)
    done = len(list(settings.features.glob("head-*.json")))
    tried = len(log.read_text().splitlines())
    assert done >= 3
    resumed = compare_heads(train, settings, val)
    assert len(log.read_text().splitlines()) == tried + 2 * len(resumed) - done
    whole = settings.model_copy(update={"root": settings.root / "other"})
    monkeypatch.setattr(fusion_training, "fusion_config", partial(_as_in, settings))
    pd.testing.assert_frame_equal(resumed, compare_heads(train, whole, val))


def _as_in(settings, found, _, **choice):
    return fusion_config(found, settings, **choice)


def test_the_configured_head_is_taken_unasked(settings):
    settings = settings.model_copy(update={"fusion_head": "align", "text_feature": "mean"})
    chosen = choose_head(None, features(), settings)
    assert (chosen.head, chosen.text_feature) == ("align", "mean")
    assert chosen.experts == {name: fingerprint(settings.model_folder(name)) for name in EXPERTS}


def test_scoring_in_pieces_changes_nothing():
    head, found = build_head(config()).eval(), features()
    whole = model_logits(head, found.arrays)
    for model, logits in feature_logits(head, found, rows=7).items():
        torch.testing.assert_close(logits, whole[model])


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_head_comes_back_as_it_was(settings, kind, monkeypatch):
    monkeypatch.setattr(fusion.Encoders, "load", lambda *_: torch.nn.Identity())
    found = features()
    choice = {"head": kind, "text_feature": "mean", "vision_feature": "pooled"}
    run = train_fusion(found, fusion_config(found, settings, **choice), settings)
    folder = save_fusion(run, settings, NO_ENCODERS)
    state = torch.load(folder / "fusion_model.pt", weights_only=True)
    assert state.keys() == run.head.state_dict().keys()
    back = load_fusion(settings.models, "cpu")
    assert isinstance(back, FusionModel)
    assert not back.training
    assert back.head.config == run.head.config
    torch.testing.assert_close(
        back.head(*inputs(back.head, found)), run.head(*inputs(run.head, found)), rtol=0, atol=0
    )


def test_a_head_is_refused_on_other_experts(settings):
    found = features()
    save_fusion(
        train_fusion(found, fusion_config(found, settings), settings), settings, NO_ENCODERS
    )
    (settings.model_folder("text_expert") / "model.safetensors").write_bytes(b"retrained")
    with pytest.raises(ValueError, match=r"text_expert is not the one .*--from 5"):
        load_fusion(settings.models)


def test_a_full_runs_fusion_is_not_replaced_unasked(settings):
    found = features()
    run = train_fusion(found, fusion_config(found, settings), settings)
    origins = [settings.model_folder(name) / "made_from.json" for name in EXPERTS]
    for file in origins:
        write_json(file, {"mode": "full", "backbone": "minilm", "data": "these"})
    save_fusion(run, settings, NO_ENCODERS)
    # Trained anew from the same, with another learning rate say: fusion goes with them.
    experts = dict.fromkeys(EXPERTS, "others")
    run.head.config = run.head.config.model_copy(update={"experts": experts})
    save_fusion(run, settings, NO_ENCODERS)
    write_json(origins[0], {"mode": "full", "backbone": "minilm", "data": "others"})
    with pytest.raises(FileExistsError, match="overwrite=true"):
        save_fusion(run, settings, NO_ENCODERS)
    save_fusion(run, settings.model_copy(update={"overwrite": True}), NO_ENCODERS)


@pytest.mark.parametrize(
    ("missing", "step"),
    [("config.json", "--from 5"), ("fusion_model.pt", "--from 5")],
)
def test_a_missing_file_names_its_step(settings, missing, step):
    found = features()
    folder = save_fusion(
        train_fusion(found, fusion_config(found, settings), settings), settings, NO_ENCODERS
    )
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"{missing} does not exist.*{step}"):
        load_fusion(settings.models)


def test_a_missing_expert_names_its_step(settings):
    found = features()
    save_fusion(
        train_fusion(found, fusion_config(found, settings), settings), settings, NO_ENCODERS
    )
    shutil.rmtree(settings.model_folder("vision_expert"))
    with pytest.raises(FileNotFoundError, match=r"vision_expert does not exist.*--from 4"):
        load_fusion(settings.models)


def test_a_config_with_an_unknown_field_is_refused_by_name(settings):
    found = features()
    folder = save_fusion(
        train_fusion(found, fusion_config(found, settings), settings), settings, NO_ENCODERS
    )
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"heads": 3}))
    with pytest.raises(ValueError, match=r"config\.json.*heads"):
        load_fusion(settings.models)


def test_torn_or_foreign_weights_are_refused_by_name(settings):
    found = features()
    run = train_fusion(found, fusion_config(found, settings), settings)
    file = save_fusion(run, settings, NO_ENCODERS) / "fusion_model.pt"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", pickle.dumps(print)):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"fusion_model\.pt is broken.*--from 5"):
            load_fusion(settings.models)
    torch.save(build_head(config("align")).state_dict(), file)
    with pytest.raises(ValueError, match=r"fusion_model\.pt is broken or not of the config"):
        load_fusion(settings.models)
