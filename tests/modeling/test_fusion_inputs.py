import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from lib.artifacts import write_json
from lib.data.altered_pictures import altered
from lib.data.datasets import MemeShards, shard_paths
from lib.data.val_parts import selecting_rows
from lib.modeling import fusion_inputs, ngrams
from lib.modeling.encoders import EXPERTS
from lib.modeling.experts import expert_job, train_expert
from lib.modeling.features import encode_altered, encode_splits
from lib.modeling.folds import folds_of_train, head_rows
from lib.modeling.fusion import load_fusion, save_fusion
from lib.modeling.fusion_inputs import encode_for_fusion, load_encoders, with_votes
from lib.modeling.fusion_training import fusion_config, train_fusion
from lib.modeling.stacking import NGRAMS, VOTE

QUICK = {"text_epochs": 1, "vision_epochs": 1, "folds": 2, "fusion_epochs": 2, "token_heads": False}


@pytest.fixture
def trained(fresh):
    def settings(**changed):
        made = fresh(**QUICK | changed)
        for name in EXPERTS:
            train_expert(name, made)
        return made

    return settings


def out_of_fold(name, settings):
    return fusion_inputs.out_of_fold(name, settings, folds_of_train(settings))


def memes_of(settings, split="train"):
    return MemeShards(shard_paths(settings.shards, split), pictures=False)


def test_no_fold_model_is_trained_on_the_memes_it_speaks_of(fresh, monkeypatch):
    settings = fresh(**QUICK, workers=1)
    fold, seen = folds_of_train(settings), []
    make = fusion_inputs.make_trainer
    monkeypatch.setattr(fusion_inputs, "make_trainer", lambda *a: seen.append(a[-1]) or make(*a))
    logits = out_of_fold("text_expert", settings)
    assert [sorted(rows) for rows in seen] == [np.flatnonzero(fold != k).tolist() for k in (0, 1)]
    assert logits.shape == (len(fold), 2)
    assert (logits != 0).all()


def test_a_killed_run_goes_on_with_the_missing_fold_and_ends_the_same(fresh, monkeypatch):
    # Both folds side by side, each in a process of its own.
    whole = out_of_fold("text_expert", fresh("whole", **QUICK, workers=2))
    settings, make, calls = fresh("killed", **QUICK, workers=1), fusion_inputs.make_trainer, []

    def killed_in_the_second_fold(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(arguments)
        return make(*arguments)

    monkeypatch.setattr(fusion_inputs, "make_trainer", killed_in_the_second_fold)
    with pytest.raises(KeyboardInterrupt):
        out_of_fold("text_expert", settings)
    calls.clear()
    assert torch.equal(out_of_fold("text_expert", settings), whole)
    monkeypatch.setattr(fusion_inputs, "make_trainer", None)
    assert torch.equal(out_of_fold("text_expert", settings), whole)


def test_other_settings_of_the_expert_are_folded_anew(fresh):
    one, other = fresh(**QUICK), fresh(**QUICK | {"text_lr": 1e-3})
    assert not torch.equal(out_of_fold("text_expert", one), out_of_fold("text_expert", other))


def test_experts_is_what_the_experts_say_of_their_own_memes(trained):
    settings = trained(fusion_features="experts")
    encoders = load_encoders(settings)
    assert set(encoders.sources) == set(EXPERTS)
    plain, (train, val) = encode_splits(settings, encoders), encode_for_fusion(settings, encoders)
    for name, array in train.arrays.items():
        assert torch.equal(array[:], plain[0].arrays[name][:])
    assert VOTE not in train.arrays
    assert len(val) > 0


def test_out_of_fold_takes_logits_of_folds_and_features_of_untuned_backbones(trained):
    settings = trained(fusion_features="out_of_fold")
    encoders = load_encoders(settings)
    assert set(encoders.sources) == {*EXPERTS, "text_encoder", "vision_encoder", NGRAMS}
    train, val = encode_for_fusion(settings, encoders)
    assert torch.equal(train.arrays["text_logits"], out_of_fold("text_expert", settings))
    experts = fresh_like(settings, fusion_features="experts")
    tuned = encode_for_fusion(experts, load_encoders(experts))
    assert torch.equal(val.arrays["text_logits"], tuned[1].arrays["text_logits"])
    assert not torch.allclose(
        val.arrays["text_mean"][:], tuned[1].arrays["text_mean"][:], atol=1e-3
    )
    assert VOTE in train.arrays
    # The n-gram model too: on train by models of the other folds, on val by the one of all.
    seen = encoders.sources[NGRAMS].prepare(memes_of(settings).texts)
    assert not torch.allclose(train.arrays[NGRAMS][:], seen, atol=1e-3)
    on_val = memes_of(settings, "val")
    texts = [on_val.texts[row] for row in selecting_rows(on_val.labels, on_val.groups)]
    torch.testing.assert_close(val.arrays[NGRAMS][:], encoders.sources[NGRAMS].prepare(texts))


@pytest.mark.parametrize("frozen", [False, True])
def test_memes_are_encoded_once_more_with_their_pictures_altered(trained, frozen):
    how = {"vision_tuning": "top_k", "top_k": 0} if frozen else {}
    plain = trained(fusion_features="out_of_fold", **how)
    settings = fresh_like(plain, altered_pictures=True)
    train, val = encode_for_fusion(settings, load_encoders(settings))
    assert set(train.altered) == {"vision_logits", "vision_pooled", VOTE}
    assert not val.altered
    assert not encode_for_fusion(plain, load_encoders(plain))[0].altered
    for name, array in train.altered.items():
        assert array[:].shape == train.arrays[name][:].shape
        assert not torch.allclose(array[:], train.arrays[name][:], atol=1e-4)
    # By the fold models, which have not seen the memes, as they were without.
    torch.testing.assert_close(
        train.arrays["vision_logits"], out_of_fold("vision_expert", plain), atol=1e-5, rtol=1e-4
    )
    by_the_expert = encode_altered(settings, load_encoders(settings))["vision_logits"]
    assert not torch.allclose(train.altered["vision_logits"], by_the_expert, atol=1e-4)
    # What judges the experts alone has no use for them.
    assert not encode_splits(settings, load_encoders(settings))[0].altered
    # The features are what the encoder makes of the altered pictures.
    memes = MemeShards(shard_paths(settings.shards, "train"))
    pictures = [altered(memes[row])["image"] for row in range(3)]
    with torch.inference_mode():
        found = load_encoders(settings).encode_images(pictures)
    torch.testing.assert_close(
        train.altered["vision_pooled"][:3], found["vision_pooled"], atol=1e-4, rtol=1e-4
    )


def test_without_words_there_are_no_n_grams(trained, monkeypatch):
    settings = trained(fusion_features="out_of_fold")
    monkeypatch.setattr(ngrams, "shown_texts", lambda texts, *how: [""] * len(texts))
    with pytest.warns(UserWarning, match="no n-grams to learn from"):
        encoders = load_encoders(settings)
    assert NGRAMS not in encoders.sources
    train, _ = encode_for_fusion(settings, encoders)
    assert not fusion_config(train, settings).ngrams


def fresh_like(settings, **changed):
    return settings.model_copy(update=changed)


def test_a_frozen_backbone_needs_no_second_encoder(trained):
    settings = trained(fusion_features="out_of_fold", vision_tuning="top_k", top_k=0)
    assert set(load_encoders(settings).sources) == {*EXPERTS, "text_encoder", NGRAMS}


def test_held_out_keeps_a_part_of_train_from_the_experts_for_the_head(trained):
    settings = trained(fusion_features="held_out")
    rows = head_rows(settings)
    train, _ = encode_for_fusion(settings, load_encoders(settings))
    assert train.ids == [memes_of(settings).ids[row] for row in rows]


@pytest.mark.parametrize("tuning", [{}, {"vision_tuning": "top_k", "top_k": 0}])
def test_a_backbone_whose_classifier_flattens_its_input_is_fused(trained, tmp_path, tuning):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=2)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "resnet")
    settings = trained(vision_model=str(tmp_path / "resnet"), vision_feature="pooled", **tuning)
    encoders = load_encoders(settings)
    train, val = encode_for_fusion(settings, encoders)
    fusion = train_fusion(train, fusion_config(train, settings), settings, val)
    save_fusion(fusion, settings, encoders)
    with torch.inference_mode():
        found = load_fusion(settings.models, "cpu")(["a"], [Image.new("RGB", (32, 32))])
    assert found["mm_fusion"].shape == (1, 2)


def test_votes_come_from_outside_the_group(trained):
    settings = trained(fusion_features="experts")
    train, _ = encode_for_fusion(settings, load_encoders(settings))
    alone = with_votes(train, np.array(train.ids))[0].arrays[VOTE]
    one_group = np.array(["same"] * 2 + train.ids[2:])
    tied = with_votes(train, one_group)[0].arrays[VOTE]
    assert alone.shape == (len(train),)
    assert torch.equal(alone[2:], tied[2:])
    assert not torch.equal(alone[:2], tied[:2])


@pytest.mark.parametrize("head", ["late", "bilinear"])
def test_the_saved_model_says_of_val_what_the_trained_one_did(trained, head):
    settings = trained(fusion_features="out_of_fold", fusion_head=head, text_feature="mean")
    settings = settings.model_copy(update={"vision_feature": "pooled"})
    encoders = load_encoders(settings)
    train, val = encode_for_fusion(settings, encoders)
    fusion = train_fusion(train, fusion_config(train, settings), settings, val)
    folder = save_fusion(fusion, settings, encoders)
    assert (folder / "encoders/text_encoder/config.json").exists()
    loaded = load_fusion(settings.models, "cpu")
    memes = MemeShards(shard_paths(settings.shards, "val"))
    samples = [memes[row] for row in selecting_rows(memes.labels, memes.groups)]
    with torch.inference_mode():
        found = loaded([s["text"] for s in samples], [s["image"] for s in samples])
        votes = loaded.head.neighbours(val.arrays["text_mean"], val.arrays["vision_pooled"])
        arrays = val.arrays | {VOTE: votes}
        expected = fusion.head(*(arrays[name][:] for name in fusion.head.config.inputs))
    torch.testing.assert_close(found["mm_fusion"], expected, atol=1e-4, rtol=0)


def test_a_changed_encoder_of_fusions_own_is_refused(trained):
    settings = trained(fusion_features="out_of_fold")
    encoders = load_encoders(settings)
    train, val = encode_for_fusion(settings, encoders)
    fusion = train_fusion(train, fusion_config(train, settings), settings, val)
    folder = save_fusion(fusion, settings, encoders)
    with (folder / "encoders/text_encoder/config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ValueError, match=r"text_encoder is not the one .*--from 5"):
        load_fusion(settings.models)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ({"fusion_features": "experts"}, {"fusion_features": "held_out"}),
        ({"fusion_features": "held_out"}, {"fusion_features": "out_of_fold"}),
        ({"fusion_features": "held_out"}, {"fusion_features": "held_out", "folds": 5}),
    ],
)
def test_experts_that_saw_another_part_of_train_are_refused(with_experts, was, now):
    trained_by, settings = with_experts(**was), with_experts(**now)
    for name in EXPERTS:
        job = expert_job(name, trained_by)
        write_json(settings.model_folder(name) / "training.json", job)
    held_out = was["fusion_features"] == "held_out"
    said = r"without a part of train \(folds=4" if held_out else "on all of train"
    with pytest.raises(ValueError, match=f"text_expert was trained {said}.*again: .*4"):
        load_encoders(settings)


def test_experts_trained_by_other_settings_are_named_with_what_differs(with_experts):
    settings = with_experts(text_lr=3e-3)
    before = settings.model_copy(update={"text_lr": 1e-3, "batch_size": 4})
    for name in EXPERTS:
        write_json(settings.model_folder(name) / "training.json", expert_job(name, before))
    with pytest.warns(UserWarning) as told:
        load_encoders(settings)
    said = [str(warning.message) for warning in told if "was trained with" in str(warning.message)]
    size = f"batch_size 4 instead of {settings.batch_size}"
    assert len(said) == 2
    assert "learning_rate 0.001 instead of 0.003" in said[0] and size in said[0]
    assert "learning_rate" not in said[1] and size in said[1]


def test_folds_whose_others_have_no_picture_are_refused(fresh):
    settings = fresh()
    n = len(MemeShards(shard_paths(settings.shards, "train"), pictures=False))
    nobody, everyone, folder = np.zeros(n, bool), np.arange(n), settings.root / "fold"
    with pytest.raises(ValueError, match="all train memes with a picture are in one of 4 folds"):
        fusion_inputs._fold_logits("vision_expert", settings, nobody, everyone, {}, folder)
