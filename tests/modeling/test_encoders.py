import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from lib.data.folding import TEXT_FOLDING
from lib.data.text import combined_text
from lib.modeling.encoders import Encoders, TextEncoder, VisionEncoder, encode_image, shown_texts
from lib.modeling.model_files import load_expert


@pytest.mark.parametrize(
    ("drop", "shown"), [(True, "one two dog"), (False, combined_text("one two", "dog"))]
)
def test_a_text_model_is_shown_markers_only_if_it_keeps_them(drop, shown):
    assert shown_texts([combined_text("one two", "dog")], drop) == [shown]


@pytest.mark.parametrize(
    ("drop", "shown"), [(True, "hate you"), (False, combined_text("hate you"))]
)
def test_a_text_model_that_was_trained_so_is_shown_folded_texts(drop, shown):
    disguised = combined_text("h4t\u200be y\u043eu")
    assert shown_texts([disguised], drop, folding=1) == [shown]
    assert shown_texts([disguised], drop)[0] != shown


def test_folding_makes_another_encoder_of_the_same_weights(with_experts):
    folder = with_experts().model_folder("text_expert")
    folded, plain = (TextEncoder(*load_expert(folder)) for _ in range(2))
    plain.model.config.text_folding = 0
    plain = TextEncoder(plain.model, plain.tokenizer)
    assert folded.folding == TEXT_FOLDING and plain.folding == 0
    # The cache of features tells encoders apart by it.
    assert folded.fingerprint() != plain.fingerprint()
    ids = [combined_text("l4te"), combined_text("late")]
    same, different = (source.prepare(ids)["input_ids"] for source in (folded, plain))
    assert same[0].equal(same[1]) and not different[0].equal(different[1])


def test_a_classifier_that_flattens_its_input_reads_the_pooled_feature():
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=2)
    model = ResNetForImageClassification(config).eval()
    source = VisionEncoder(model, ViTImageProcessor(size={"height": 32, "width": 32}))
    pictures = [Image.effect_noise((32, 32), spread).convert("RGB") for spread in (40, 90, 10)]
    with torch.inference_mode():
        pixels = source.prepare(pictures)
        encoded = encode_image(model, pixels, patches=True)
        expected = model(pixel_values=pixels).logits
        assert encoded["vision_pooled"].shape == (3, 16) and encoded["vision_patches"].ndim == 3
        torch.testing.assert_close(source.logits(encoded["vision_pooled"]), expected)
        found = Encoders({"vision_expert": source}, bf16=False).encode_images(pictures)
    torch.testing.assert_close(found["vision_logits"], expected)
