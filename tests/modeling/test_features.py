import io
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
from webdataset import TarWriter

from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.modeling import backbones, feature_cache
from lib.modeling.encoders import EXPERTS, Encoders, encode_image, pixels_of
from lib.modeling.experts import train_expert
from lib.modeling.feature_cache import FeatureCache
from lib.modeling.features import TOKEN_ARRAYS, encode_shards, encode_splits


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
        logits = classifier(found.arrays["vision_pooled"][:])
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
            f.arrays[name][:] * f.arrays["text_mask"][:].unsqueeze(-1)
            if name == "text_tokens"
            else f.arrays[name][:]
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
        assert set(again.arrays) == {n for n in first.arrays if tokens or n not in TOKEN_ARRAYS}
        for name, array in again.arrays.items():
            assert torch.equal(array[:], first.arrays[name][:])


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


def test_what_another_user_has_encoded_is_read(trained, encoders, tmp_path, monkeypatch):
    shards = shard_paths(trained.shards, "val")
    encoded = encode_shards(shards, encoders, tmp_path)

    def refused(*_, **__):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(feature_cache.os, "utime", refused)
    monkeypatch.setattr(Encoders, "encode_prepared", refused)
    assert same(encode_shards(shards, encoders, tmp_path), encoded)


def test_a_full_disk_leaves_no_torn_file(trained, encoders, val, tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        encode_shards(val, encoders, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.fixture
def four_shards(trained, tmp_path):
    """The train memes in four shards instead of one, the texts of the last much longer."""
    found = MemeShards(shard_paths(trained.shards, "train"))
    shards = []
    for k in range(4):
        shards.append(tmp_path / f"shard-{k:06d}.tar")
        with TarWriter(str(shards[-1]), encoder=False) as tar:
            for row in range(k, len(found), 4):
                picture = io.BytesIO()
                found[row]["image"].save(picture, format="PNG")
                text = found[row]["text"] + " and so on" * (20 if k == 3 else 0)
                meta = json.dumps(found[row]["meta"]).encode()
                parts = {"txt": text.encode(), "json": meta, "png": picture.getvalue()}
                tar.write({"__key__": f"{row:06d}"} | parts)
    return shards


def same(one, other):
    assert one.ids == other.ids
    assert torch.equal(one.labels, other.labels)
    assert set(one.arrays) == set(other.arrays)
    return all(torch.equal(one.arrays[name][:], other.arrays[name][:]) for name in one.arrays)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_encoding_goes_on_with_the_next_shard_and_ends_with_the_same(
    encoders, four_shards, tmp_path, monkeypatch, workers
):
    whole = encode_shards(four_shards, encoders, tmp_path / "whole", tokens=True, workers=workers)
    save, saved = FeatureCache.save, []

    def killed(self, name, shard, arrays):
        if shard == four_shards[2]:
            raise KeyboardInterrupt
        save(self, name, shard, arrays)

    monkeypatch.setattr(FeatureCache, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        encode_shards(four_shards, encoders, tmp_path / "cache", tokens=True, workers=workers)
    monkeypatch.setattr(
        FeatureCache,
        "save",
        lambda self, n, shard, a: saved.append(shard) or save(self, n, shard, a),
    )
    resumed = encode_shards(four_shards, encoders, tmp_path / "cache", tokens=True, workers=workers)
    assert set(saved) == set(four_shards[2:])
    assert same(resumed, whole)


def test_a_file_that_was_cut_short_is_encoded_again(encoders, four_shards, tmp_path):
    whole = encode_shards(four_shards, encoders, tmp_path / "cache", tokens=True)
    arrays = {name: torch.clone(array[:]) for name, array in whole.arrays.items()}
    torn, content = [], b""
    for file in (tmp_path / "cache").rglob("*-tokens/*.safetensors"):
        torn.append(file)
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content[:100])
    again = encode_shards(four_shards, encoders, tmp_path / "cache", tokens=True)
    assert len(torn) == 8
    assert torn[-1].read_bytes() == content
    assert all(torch.equal(arrays[name], array[:]) for name, array in again.arrays.items())


def test_without_a_cache_the_features_are_the_same(encoders, four_shards, tmp_path):
    kept = encode_shards(four_shards, encoders, tmp_path / "cache", tokens=True)
    assert same(encode_shards(four_shards, encoders, tokens=True), kept)


def test_a_new_shard_costs_a_pass_over_it_alone(encoders, four_shards, tmp_path, monkeypatch):
    encode_shards(four_shards[:3], encoders, tmp_path / "cache")
    ran, encode = [], Encoders.encode_prepared
    monkeypatch.setattr(
        Encoders,
        "encode_prepared",
        lambda self, p, t: ran.append(len(p["vision_expert"])) or encode(self, p, t),
    )
    encode_shards(four_shards, encoders, tmp_path / "cache")
    assert sum(ran) == len(MemeShards(four_shards[3:]))


def test_reading_draws_nothing_from_the_seeded_generators(encoders, val, tmp_path):
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        encode_shards(val, encoders, tmp_path / "cache")
        states.append(torch.random.get_rng_state())
    torch.manual_seed(0)
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert torch.equal(states[0], states[1])


def test_the_features_are_mapped_and_not_read(encoders, four_shards, tmp_path):
    found = encode_shards(four_shards, encoders, tmp_path / "cache", tokens=True)
    if sys.platform == "linux":
        mapped = Path("/proc/self/maps").read_text()
        files = list((tmp_path / "cache").rglob("*.safetensors"))
        assert len(files) == 8
        assert all(str(file) in mapped for file in files)
    rows = torch.tensor([len(found) - 1, 0, 5])
    some, whole = (
        array["text_tokens"] for array in (found.take(rows.numpy()).arrays, found.arrays)
    )
    assert torch.equal(some[:], whole[rows])


def test_encoders_that_are_no_longer_used_are_forgotten(trained, val, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "KEPT_ENCODERS", 2)
    encoders, folders = Encoders.load(trained.models), []
    for k in range(4):
        with torch.no_grad():
            next(encoders.sources["text_expert"].parameters()).add_(1)
        encode_shards(val, encoders, tmp_path)
        for folder in tmp_path.iterdir():
            if folder not in folders:
                folders.append(folder)
                # The clock of a file system may be coarse.
                os.utime(folder, (k, k))
    assert len([folder for folder in folders if folder.name.startswith("vision")]) == 1
    texts = [folder for folder in folders if folder.name.startswith("text")]
    assert [folder.exists() for folder in texts] == [False, False, True, True]
    assert all(f.exists() for f in folders if f.name.startswith("vision"))


def test_features_of_shards_that_were_packed_anew_are_forgotten_in_time(
    trained, encoders, val, tmp_path
):
    encode_shards(val, encoders, tmp_path)
    old = list(tmp_path.rglob("*.safetensors"))
    for file in old:
        os.utime(file, (0, 0))
    encode_shards(shard_paths(trained.shards, "test"), encoders, tmp_path)
    assert not any(file.exists() for file in old)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_fusion_gets_train_and_val_and_in_a_pilot_train_alone(trained, encoders, tmp_path):
    train, val = encode_splits(trained, encoders)
    splits = [MemeShards(shard_paths(trained.shards, s), pictures=False) for s in ("train", "val")]
    assert [train.ids, val.ids] == [memes.ids for memes in splits]
    pilot = trained.model_copy(update={"mode": "pilot", "root": tmp_path})
    pilot.shards.parent.mkdir(parents=True)
    pilot.shards.symlink_to(trained.shards)
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
