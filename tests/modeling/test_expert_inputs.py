import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib.data.datasets import MemeShards, shard_paths
from lib.data.example import Example
from lib.data.folding import TEXT_FOLDING
from lib.data.packing.pack import pack
from lib.modeling.encoders import EXPERTS
from lib.modeling.expert_inputs import LastLayer, classifier, expert_inputs, text_lengths
from lib.modeling.experts import expert_job, train_expert
from lib.modeling.model_files import load_expert


def test_text_inputs_are_the_packed_texts_cut_at_max_length(fresh):
    settings = fresh(max_length=8, text_markers="keep")
    with pytest.warns(UserWarning, match=r"of train are longer than max_length=8 tokens"):
        inputs = expert_inputs("text_expert", settings, evaluate=True)
    memes = MemeShards(shard_paths(settings.shards, "train"), pictures=False)
    assert [row["ids"] for row in inputs.train] == memes.ids
    assert inputs.labels == memes.labels
    assert max(inputs.lengths) == 8


def test_lengths_of_texts_say_what_is_cut(fresh):
    table = text_lengths(fresh(max_length=8, text_markers="keep"))
    assert list(table.index) == ["train", "val"]
    assert (table["cut"] > 0).all() and (table["longest"] > 8).all()
    whole = text_lengths(fresh(max_length=128, text_markers="keep"))
    assert (whole["cut"] == 0).all()


def test_without_markers_texts_are_shorter(fresh):
    kept, dropped = (text_lengths(fresh(text_markers=m))["median"] for m in ("keep", "drop"))
    assert (dropped < kept).all()


def test_dropped_markers_stay_dropped_in_the_saved_expert(fresh):
    settings = fresh(text_markers="drop", text_epochs=1)
    model, _ = load_expert(train_expert("text_expert", settings).folder)
    assert model.config.text_markers == "drop"


def test_texts_are_folded_unless_the_settings_say_no(fresh):
    for folding in (True, False):
        model, _ = classifier("text_expert", fresh(text_folding=folding))
        assert model.config.text_folding == (TEXT_FOLDING if folding else 0)
    jobs = [
        expert_job(name, fresh(text_folding=folding))
        for name in ("text_expert", "vision_expert")
        for folding in (True, False)
    ]
    # A text expert of other texts is another; the vision expert reads none.
    assert jobs[0] != jobs[1] and jobs[2] == jobs[3]


def test_a_frozen_vision_backbone_learns_its_last_layer_from_the_cache(fresh):
    settings = fresh(vision_tuning="top_k", top_k=0, vision_epochs=2)
    inputs = expert_inputs("vision_expert", settings, evaluate=True)
    assert isinstance(inputs.model, LastLayer)
    before = {k: v.clone() for k, v in inputs.whole.state_dict().items()}
    model, processor = load_expert(train_expert("vision_expert", settings).folder)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"classifier.weight", "classifier.bias"}
    meme = MemeShards(shard_paths(settings.shards, "train"))[0]
    pooled = inputs.train[0]["pooled"]
    pixels = processor(meme["image"], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        whole = model(pixel_values=pixels).logits[0]
        torch.testing.assert_close(model.classifier(pooled), whole, atol=1e-5, rtol=0)


def test_a_convolutional_backbone_is_shown_pictures_of_the_size_that_is_set(fresh):
    how = {"vision_model": "efficientnet_lite0", "vision_tuning": "top_k", "top_k": 0}
    settings = fresh(vision_size=64, vision_epochs=1, **how)
    model, processor = load_expert(train_expert("vision_expert", settings).folder)
    meme = MemeShards(shard_paths(settings.shards, "train"))[0]
    pixels = processor(meme["image"], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 64, 64)
    # What the last layer learned from is what serving reads.
    pooled = expert_inputs("vision_expert", settings, evaluate=False).train[0]["pooled"]
    with torch.no_grad():
        whole = model(pixel_values=pixels).logits[0]
        last = model.timm_model.get_classifier()
        torch.testing.assert_close(last(pooled), whole, atol=1e-4, rtol=0)
    jobs = [expert_job(name, fresh(vision_size=size)) for name in EXPERTS for size in (None, 64)]
    # A vision expert of other pictures is another; the text expert sees none.
    assert jobs[0] == jobs[1] and jobs[2] != jobs[3]


def test_a_backbone_of_one_size_refuses_another(fresh):
    with pytest.raises(ValueError, match="vision_size=64: siglip takes pictures of its own size"):
        classifier("vision_expert", fresh(vision_size=64))


def test_the_last_layer_alone_is_trained_where_memory_is_to_be_saved(fresh):
    how = {"vision_tuning": "top_k", "top_k": 0, "vision_epochs": 1}
    plain, saving = (
        load_file(train_expert("vision_expert", settings).folder / "model.safetensors")
        for settings in (fresh("plain", **how), fresh("saving", gradient_checkpointing=True, **how))
    )
    assert plain.keys() == saving.keys()
    assert all(torch.equal(plain[name], saving[name]) for name in plain)


def test_memes_without_a_picture_teach_the_text_expert_alone(fresh, tmp_path):
    settings = fresh("own")
    (settings.root / "Step_3").unlink()
    examples = [
        Example(
            f"m{i}",
            "own",
            None if i % 3 == 0 else picture(tmp_path, i),
            f"text {i}",
            "",
            {"abuse_hate": i % 2},
        )
        for i in range(60)
    ]
    pack(examples, settings.step3, mode="full")
    memes = MemeShards(shard_paths(settings.shards, "train"))
    assert 0 < len(memes.with_picture) < len(memes)
    inputs = expert_inputs("vision_expert", settings, evaluate=False)
    assert inputs.rows == memes.with_picture
    assert len(inputs.train) == len(inputs.labels) == len(memes.with_picture)
    assert len(inputs.plain) == len(memes)
    assert len(expert_inputs("text_expert", settings, evaluate=False).train) == len(memes)


def test_a_backbone_in_half_precision_is_trained_in_single(fresh, tiny_backbones, tmp_path):
    for name, folder in tiny_backbones.items():
        half = shutil.copytree(folder, tmp_path / name)
        tensors = load_file(half / "model.safetensors")
        halved = {key: tensor.half() for key, tensor in tensors.items()}
        save_file(halved, half / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((half / "config.json").read_text()) | {"dtype": "float16"}
        (half / "config.json").write_text(json.dumps(config))
        expert = name.replace("model", "expert")
        model, _ = classifier(expert, fresh(**{name: str(half)}))
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def picture(folder, seed):
    path = folder / f"{seed}.png"
    Image.effect_noise((32, 32), 40 + seed).convert("RGB").save(path)
    return path


@pytest.mark.parametrize("split", ["train", "val"])
def test_pictures_that_are_missing_altogether_are_named(fresh, tmp_path, split):
    settings = fresh("own")
    (settings.root / "Step_3").unlink()
    examples = [
        Example(
            f"m{i}",
            "own",
            None if split == of else picture(tmp_path, i),
            f"text {i}",
            "",
            {"abuse_hate": i % 2},
            split=of,
        )
        for i, of in enumerate(["train", "train", "val", "val", "val", "test"] * 4)
    ]
    pack(examples, settings.step3, mode="full")
    with pytest.raises(ValueError, match=f"no meme of {split}.* has a picture"):
        expert_inputs("vision_expert", settings, evaluate=True)
