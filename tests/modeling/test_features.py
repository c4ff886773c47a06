import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.modeling import backbones, features
from lib.modeling.encoders import EXPERTS, Encoders, encode_image, pixels_of
from lib.modeling.experts import train_expert
from lib.modeling.features import encode_shards, encode_splits


@pytest.fixture(scope="module")
def trained(packed, tiny_backbones, tmp_path_factory):
    """Settings of a root with two tiny experts."""
    root = tmp_path_factory.mktemp("trained")
    (root / "Step_3").symlink_to(packed)
    folders = {name: str(folder) for name, folder in tiny_backbones.items()}
    settings = Settings(
        mode="full", root=root, workers=0, text_epochs=1, vision_epochs=1, **folders
    )
    for name in EXPERTS:
        train_expert(name, settings)
    return settings


@pytest.fixture(scope="module")
def encoders(trained):
    return Encoders.load(trained.models)


@pytest.fixture
def val(trained):
    return shard_paths(trained.shards, "val")


def test_shapes_and_rows_follow_the_shards(trained, encoders, val):
    found = encode_shards(val, encoders, tokens=True)
    memes = MemeShards(val, pictures=False)
    n = len(memes)
    assert found.ids == memes.ids
    assert found.labels.tolist() == memes.labels
    shapes = {name: tuple(array.shape) for name, array in found.arrays.items()}
    length = shapes["text_mask"][1]
    assert shapes == {
        "text_logits": (n, 2),
        "vision_logits": (n, 2),
        "text_cls": (n, 32),
        "text_mean": (n, 32),
        "vision_pooled": (n, 32),
        "text_tokens": (n, length, 32),
        "text_mask": (n, length),
        "vision_patches": (n, 4, 32),
    }


def test_logits_are_those_of_the_expert_alone(trained, encoders, val):
    found = encode_shards(val, encoders)
    memes = MemeShards(val)
    for row, sample in enumerate(memes):
        text = encoders.sources["text_expert"].prepare([sample["text"]])
        image = encoders.sources["vision_expert"].prepare([sample["image"]])
        with torch.inference_mode():
            alone = [
                encoders.sources["text_expert"].model(**text).logits,
                encoders.sources["vision_expert"].model(pixel_values=image).logits,
            ]
        torch.testing.assert_close(found.arrays["text_logits"][[row]], alone[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(
            found.arrays["vision_logits"][[row]], alone[1], atol=1e-5, rtol=0
        )


def test_the_pooled_feature_gives_the_logits_through_the_classifier(encoders, trained, val):
    found = encode_shards(val, encoders)
    with torch.inference_mode():
        classifier = encoders.sources["vision_expert"].model.classifier
        logits = classifier(found.arrays["vision_pooled"])
    torch.testing.assert_close(logits, found.arrays["vision_logits"], atol=1e-5, rtol=0)


def test_mean_and_tokens_leave_padding_out(encoders):
    short, long = "[OCR] hi [/OCR]", "[OCR] " + "you are late again " * 8 + "[/OCR]"
    with torch.inference_mode():
        alone, together = (encoders.encode_texts(t, tokens=True) for t in ([short], [short, long]))
    for name in ("text_logits", "text_cls", "text_mean"):
        torch.testing.assert_close(alone[name][0], together[name][0], atol=1e-5, rtol=0)
    mask = together["text_mask"][0].bool()
    torch.testing.assert_close(
        together["text_tokens"][0][mask].mean(0), together["text_mean"][0], atol=1e-5, rtol=0
    )


def test_long_texts_are_cut_at_the_trained_length(encoders, trained):
    inputs = encoders.sources["text_expert"].prepare(["hi " * 1000])
    assert inputs["input_ids"].shape[1] == trained.max_length


def test_batch_size_and_workers_change_nothing(trained, encoders):
    shards = [path for split in ("train", "val") for path in shard_paths(trained.shards, split)]
    one = encode_shards(shards, encoders, tokens=True)
    other = encode_shards(shards, encoders, tokens=True, batch_size=7, workers=2)
    assert one.ids == other.ids
    assert torch.equal(one.labels, other.labels)
    for name in one.arrays:
        tolerance = 5e-3 if one.arrays[name].dtype == torch.float16 else 1e-5
        shown = [
            f.arrays[name] * f.arrays["text_mask"].unsqueeze(-1)
            if name == "text_tokens"
            else f.arrays[name]
            for f in (one, other)
        ]
        torch.testing.assert_close(*shown, atol=tolerance, rtol=0)


def test_encoders_run_once_and_the_cache_answers_after(
    trained, encoders, val, tmp_path, monkeypatch
):
    first = encode_shards(val, encoders, tmp_path, tokens=True)
    monkeypatch.setattr(Encoders, "encode_prepared", None)
    for tokens in (True, False):
        again = encode_shards(val, encoders, tmp_path, tokens=tokens)
        assert again.ids == first.ids
        assert torch.equal(again.labels, first.labels)
        assert all(torch.equal(again.arrays[name], first.arrays[name]) for name in first.arrays)


def test_a_changed_encoder_is_run_again_and_the_other_is_not(trained, val, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    encode_shards(val, Encoders.load(trained.models), cache)
    assert len(list(cache.iterdir())) == 2
    changed = Encoders.load(trained.models)
    with torch.no_grad():
        next(changed.sources["text_expert"].parameters()).add_(1)
    ran = []
    encode = Encoders.encode_prepared
    monkeypatch.setattr(
        Encoders, "encode_prepared", lambda self, p, t: ran.extend(p) or encode(self, p, t)
    )
    encode_shards(val, changed, cache)
    assert set(ran) == {"text_expert"}
    encode_shards(shard_paths(trained.shards, "test"), changed, cache)
    assert set(ran) == {"text_expert", "vision_expert"}


def test_another_classifier_on_the_same_backbone_costs_no_new_pass(trained, val, tmp_path):
    first = encode_shards(val, Encoders.load(trained.models), tmp_path)
    changed = Encoders.load(trained.models)
    with torch.no_grad():
        changed.sources["vision_expert"].model.classifier.bias.add_(torch.tensor([0.0, 1.0]))
    again = encode_shards(val, changed, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    moved = again.arrays["vision_logits"] - first.arrays["vision_logits"]
    torch.testing.assert_close(moved, torch.tensor([[0.0, 1.0]]).expand_as(moved))


def test_a_killed_encoding_leaves_no_cache(trained, encoders, val, tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        encode_shards(val, encoders, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_fusion_gets_train_and_val_and_in_a_pilot_train_alone(trained, encoders):
    train, val = encode_splits(trained, encoders)
    splits = [MemeShards(shard_paths(trained.shards, s), pictures=False) for s in ("train", "val")]
    assert [train.ids, val.ids] == [memes.ids for memes in splits]
    pilot = trained.model_copy(update={"mode": "pilot"})
    assert encode_splits(pilot, encoders)[1] is None


def test_the_packaged_vision_backbone_has_pooled_feature_and_patches():
    expert = backbones.load(
        AutoModelForImageClassification,
        "efficientnet_lite0",
        num_labels=2,
        ignore_mismatched_sizes=True,
    ).eval()
    processor = backbones.load(AutoImageProcessor, "efficientnet_lite0")
    pixels = pixels_of(processor, [Image.new("RGB", (384, 384))])
    with torch.inference_mode():
        found = encode_image(expert, pixels, patches=True)
        logits = expert.timm_model.classifier(found["vision_pooled"])
    torch.testing.assert_close(logits, found["vision_logits"])
    assert found["vision_logits"].shape == (1, 2)
    assert found["vision_pooled"].shape == (1, 1280)
    assert found["vision_patches"].ndim == 3
