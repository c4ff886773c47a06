import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModel

from lib.config import ROOT, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.data.val_parts import selecting_rows
from lib.decisions.bundle import DecisionBundle
from lib.modeling.encoders import Encoders
from lib.modeling.features import encode_shards
from lib.modeling.fusion import load_fusion, save_fusion
from lib.modeling.fusion_inputs import encode_for_fusion, load_dual, load_encoders
from lib.modeling.fusion_training import candidates, choose_head, train_fusion
from lib.modeling.own_encoders import load_own, own_sources
from lib.modeling.prediction_table import logits_of, save_predictions
from lib.modeling.predictions import predict_shards
from lib.serving import MemeClassifier

KINDS = ("clip", "siglip", "siglip2")
DUAL = {"text_feature": "dual", "vision_feature": "dual", "fusion_head": "align"}
TEXT = "[OCR] you are late again [/OCR] [CAP] a clock [/CAP] <lang=en>"


@pytest.fixture(params=KINDS)
def folder(request, dual_encoder, tmp_path):
    """A copy of a tiny dual encoder, to be changed or thrown away."""
    return shutil.copytree(dual_encoder(request.param), tmp_path / request.param)


@pytest.fixture
def clip(dual_encoder, tmp_path):
    return shutil.copytree(dual_encoder("clip"), tmp_path / "clip")


def embed(sources, texts):
    with torch.inference_mode():
        return sources["dual_text"](sources["dual_text"].prepare(texts), tokens=False)["text_dual"]


def selecting_memes(settings):
    memes = MemeShards(shard_paths(settings.shards, "val"))
    return [memes[row] for row in selecting_rows(memes.labels, memes.groups)]


def trained(settings):
    """A head trained on the settings' features, saved; the encoders, train and val beside it."""
    encoders = load_encoders(settings)
    train, val = encode_for_fusion(settings, encoders)
    fusion = train_fusion(train, choose_head(None, train, settings), settings, val)
    save_fusion(fusion, settings, encoders)
    return fusion, encoders, train, val


def decided(settings):
    """Predict all splits and fit the decisions, as Steps 6 and 7 do; returns the predictions."""
    splits = {name: shard_paths(settings.shards, name) for name in ("train", "val")}
    frame = predict_shards(splits, settings.models, settings.features)
    save_predictions(frame, settings.artifact(6, "predictions.parquet"))
    DecisionBundle.fit(frame[frame["part"] == "calibrate"], settings, n_resamples=5).save(settings)
    return frame


def test_a_head_on_a_dual_encoder_goes_all_the_way_to_serving(folder, with_experts):
    settings = with_experts(dual_encoder=str(folder), **DUAL)
    fusion, _, _, val = trained(settings)
    # What was saved must not need the folder it came from.
    shutil.rmtree(folder)
    model = load_fusion(settings.models, "cpu")
    assert model.head.config.inputs == ("text_dual", "vision_dual")
    assert list(model.head.config.encoders) == ["dual_encoder"]
    samples = selecting_memes(settings)
    with torch.inference_mode():
        expected = fusion.head(val.arrays["text_dual"][:], val.arrays["vision_dual"][:])
        served = model([s["text"] for s in samples], [s["image"] for s in samples])["mm_fusion"]
    torch.testing.assert_close(served, expected, atol=1e-5, rtol=0)
    assert expected.std(0).min() > 1e-3
    frame = decided(settings)
    saved = torch.tensor(logits_of(frame[frame["part"] == "select"], "mm_fusion").to_numpy())
    torch.testing.assert_close(saved.float(), expected, atol=1e-5, rtol=0)
    classifier = MemeClassifier.load(settings.root, "full", device="cpu")
    answer = classifier.predict(samples[0]["text"], samples[0]["image"])
    assert answer["logits"] == pytest.approx(expected[0].tolist(), abs=1e-5)


def test_a_text_has_the_embedding_that_the_models_own_recipe_gives(folder):
    sources = load_dual(str(folder))
    model, tokenizer = sources["dual_text"].model, sources["dual_text"].tokenizer
    recipe = {} if "clip" in folder.name else {"padding": "max_length", "max_length": 64}
    inputs = tokenizer("you are late again", padding_side="right", return_tensors="pt", **recipe)
    mask = {"attention_mask": inputs["attention_mask"]} if "clip" in folder.name else {}
    with torch.inference_mode():
        alone = model.get_text_features(input_ids=inputs["input_ids"], **mask).pooler_output
    packed = TEXT.replace("a clock ", "")
    torch.testing.assert_close(embed(sources, [packed]), alone, atol=1e-5, rtol=0)
    # Padding for a longer neighbour, and capitals, change nothing.
    together = embed(sources, [packed, "[OCR] " + "what a day " * 9 + "[/OCR]", packed.upper()])
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)
    small = embed(sources, ["[OCR] YOU are LATE again [/OCR]"])
    torch.testing.assert_close(small, alone, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_its_texts_are_folded_where_it_is_told_so(folder):
    meant, disguised = "[OCR] you are late [/OCR]", "[OCR] y0u \u0430re l4te [/OCR]"
    plain, folded = load_dual(str(folder)), load_dual(str(folder), folding=1)
    same = embed(folded, [disguised])
    torch.testing.assert_close(same, embed(folded, [meant]), atol=1e-5, rtol=0)
    torch.testing.assert_close(same, embed(plain, [meant]), atol=1e-5, rtol=0)
    assert (same - embed(plain, [disguised])).abs().max() > 1e-3
    assert plain["dual_text"].fingerprint() != folded["dual_text"].fingerprint()


@pytest.mark.parametrize("text", ["", "[OCR] [/OCR] [CAP] [/CAP]", "\U0001f602 \u200d", "x" * 999])
def test_any_text_has_an_embedding(folder, text):
    assert torch.isfinite(embed(load_dual(str(folder)), [text, TEXT])).all()


def test_both_towers_are_cached_and_each_knows_when_it_changed(clip, with_experts, monkeypatch):
    settings = with_experts(dual_encoder=str(clip), token_heads=False, **DUAL)
    shards = shard_paths(settings.shards, "val")
    first = encode_shards(shards, load_encoders(settings), settings.features)
    assert len(list(settings.features.iterdir())) == 4
    changed = load_encoders(settings)
    with torch.no_grad():
        changed.sources["dual_text"].model.text_projection.weight.add_(0.1)
    ran, encode = [], Encoders.encode_prepared
    monkeypatch.setattr(
        Encoders, "encode_prepared", lambda self, p, t: ran.extend(p) or encode(self, p, t)
    )
    again = encode_shards(shards, changed, settings.features)
    assert set(ran) == {"dual_text"}
    assert torch.equal(again.arrays["vision_dual"][:], first.arrays["vision_dual"][:])
    assert not torch.equal(again.arrays["text_dual"][:], first.arrays["text_dual"][:])


def test_step_5_compares_heads_on_the_embeddings_too(clip, with_experts):
    settings = with_experts(dual_encoder=str(clip))
    train, _ = encode_for_fusion(settings, load_encoders(settings))
    dual = {c["head"] for c in candidates(train) if c["text_feature"] == "dual"}
    assert {"concat", "align", "bilinear"} <= dual
    assert not dual & {"cross_attention", "late"}
    without = train.with_arrays()
    del without.arrays["text_dual"]
    assert not [c for c in candidates(without) if c["text_feature"] == "dual"]


def test_a_head_may_read_one_tower_alone_and_the_other_is_neither_saved_nor_run(clip, with_experts):
    choice = DUAL | {"text_feature": "mean"}
    settings = with_experts(dual_encoder=str(clip), **choice)
    fusion, encoders, _, val = trained(settings)
    assert list(own_sources(encoders, fusion.head.config.reads)) == ["dual_vision"]
    shutil.rmtree(clip)
    model = load_fusion(settings.models, "cpu")
    assert set(model.encoders.sources) == {"text_expert", "vision_expert", "dual_vision"}
    samples = selecting_memes(settings)
    with torch.inference_mode():
        expected = fusion.head(val.arrays["text_mean"][:], val.arrays["vision_dual"][:])
        served = model([s["text"] for s in samples], [s["image"] for s in samples])["mm_fusion"]
    torch.testing.assert_close(served, expected, atol=1e-5, rtol=0)


def test_texts_longer_than_the_tower_are_counted(clip, with_experts, monkeypatch):
    settings = with_experts(dual_encoder=str(clip), **DUAL)
    encoders = load_encoders(settings)
    texts = [s["text"] for s in MemeShards(shard_paths(settings.shards, "train"), pictures=False)]
    long = "[OCR] " + "what a day this is " * 30 + "[/OCR]"
    assert encoders.sources["dual_text"].too_long([*texts, long]) == 1
    cut = embed(encoders.sources, [long, long + " and more", long[:400] + " [/OCR]"])
    torch.testing.assert_close(cut[0], cut[1], atol=1e-5, rtol=0)
    monkeypatch.setattr(encoders.sources["dual_text"], "length", 5)
    n = len(texts) + len(MemeShards(shard_paths(settings.shards, "val"), pictures=False))
    with pytest.warns(
        UserWarning, match=rf"\d+ of {n} texts are longer than the 5 tokens that .*clip reads and"
    ):
        encode_for_fusion(settings, encoders)


def test_what_is_no_dual_encoder_is_named_with_the_way_out(with_experts, tmp_path, tiny_backbones):
    text = str(tiny_backbones["text_model"])
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/config.json").write_text("{}")
    for name, kind in {
        text: "a DebertaV2Model",
        "efficientnet_lite0": "a TimmWrapperModel",
        str(tmp_path / "odd"): "no model known here",
    }.items():
        with pytest.raises(ValueError, match=rf"dual_encoder='.*{kind}.*CLIP or SigLIP") as caught:
            load_encoders(with_experts(dual_encoder=name, **DUAL))
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match=r"no/such-model.*neither a folder.*give the path"):
        load_encoders(with_experts(dual_encoder="no/such-model", **DUAL))


def test_half_precision_on_the_disk_is_single_precision_here(clip):
    AutoModel.from_pretrained(clip).half().save_pretrained(clip)
    assert AutoModel.from_pretrained(clip).dtype == torch.float16
    sources = load_dual(str(clip))
    assert {p.dtype for p in sources["dual_text"].parameters()} == {torch.float32}
    pixels = sources["dual_vision"].prepare([Image.new("RGB", (40, 30))])
    assert sources["dual_vision"](pixels, False)["vision_dual"].dtype == torch.float32


@pytest.mark.parametrize("tuned", [True, False])
def test_half_precision_is_loaded_in_single_from_fusions_folder_too(dual_encoder, tmp_path, tuned):
    folder = Path(shutil.copytree(dual_encoder("clip"), tmp_path / "dual_encoder"))
    half = AutoModel.from_pretrained(folder).half()
    half.save_pretrained(folder)
    state = {"dual_encoder": half.state_dict()} if tuned else {}
    own = load_own(tmp_path, ["dual_encoder"], state)
    assert {p.dtype for p in own["dual_text"].parameters()} == {torch.float32}


def test_dual_features_without_a_dual_encoder_are_refused_at_once():
    with pytest.raises(ValueError, match=r"text_feature='dual': .* needs a dual_encoder"):
        Settings.checked({"text_feature": "dual"}, "here")


def test_the_clip_preset_is_the_published_recipe():
    settings = Settings.from_file(ROOT / "configs/clip.yaml")
    assert settings.dual_encoder == "openai/clip-vit-large-patch14-336"
    assert (settings.fusion_head, settings.text_feature) == ("align", "dual")
    assert (settings.fusion_rank, settings.fusion_lr, settings.fusion_epochs) == (1024, 1e-4, 20)
