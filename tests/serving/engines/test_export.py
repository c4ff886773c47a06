"""The exported graph, run from its card by a client that has no PyTorch."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import CLIPImageProcessor, ConvNextImageProcessor, SiglipImageProcessor
from transformers.models.timm_wrapper.image_processing_timm_wrapper import (
    TimmWrapperImageProcessor,
)

from lib.modeling.backbones import EFFICIENTNET_INPUT
from lib.modeling.encoders import pixels_of
from lib.serving import MemeClassifier
from lib.serving.demo import demo_memes
from lib.serving.engines import export as export_module
from lib.serving.engines.export import export

CLIENT = Path(__file__).parent / "client_without_torch.py"


@pytest.fixture(scope="module")
def exported(full_root) -> Path:
    return export(full_root)


def test_a_client_without_pytorch_gives_the_same_answers(full_root, exported, tmp_path):
    demo = demo_memes(full_root, 4)
    memes = [["monday again with coffee", demo.image_path[0]], ["soup", demo.image_path[1]]]
    memes += [["the parrot on the roof sings at night", path] for path in demo.image_path[2:]]
    ran = subprocess.run(
        [sys.executable, "-I", str(CLIENT), str(exported)],
        input=json.dumps(memes, default=str),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    classifier = MemeClassifier.load(full_root.root, "full", engine="float32")
    expected = classifier.predict_batch(*zip(*memes, strict=True))
    # SigLIP's processor resizes tensors and the client pictures: up to a grey level apart.
    for ours, theirs in zip(expected, json.loads(ran.stdout), strict=True):
        assert theirs["prob"]["mm_fusion"] == pytest.approx(ours["prob_hate"], abs=1e-3)
        for name, prob in ours["experts"].items():
            assert theirs["prob"][name] == pytest.approx(prob, abs=1e-3)
        assert (theirs["label"], theirs["decision"]) == (ours["label"], ours["decision"])


def test_the_card_names_every_file_and_number_that_a_client_needs(full_root, exported):
    card = json.loads((exported / "card.json").read_text(encoding="utf-8"))
    written = (exported / "README.md").read_text(encoding="utf-8")
    for how in card["preparation"].values():
        assert "file" not in how or (exported / how["file"]).is_file()
    for name in (*card["inputs"], *card["outputs"], str(card["decision"]["threshold"])):
        assert name in written
    assert str(full_root.root) not in written


def source_of(processor):
    return SimpleNamespace(
        modality="vision", processor=processor, prepare=partial(pixels_of, processor)
    )


def timm_processor(crop):
    config = EFFICIENTNET_INPUT | {"crop_pct": crop}
    return TimmWrapperImageProcessor(pretrained_cfg=config, architecture="efficientnet_lite0")


@pytest.mark.parametrize(
    "processor",
    [
        SiglipImageProcessor(size={"height": 32, "width": 32}),
        CLIPImageProcessor(),
        CLIPImageProcessor(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}),
        ConvNextImageProcessor(size={"shortest_edge": 384}),
        timm_processor(1.0),
    ],
)
def test_a_preparation_that_only_resizes_is_written_on_the_card(processor):
    written = export_module._preparation("vision_expert", source_of(processor))
    assert written["input"] == "pixel_values"


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessor(size={"shortest_edge": 256}),
        ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.95),
        SiglipImageProcessor(do_rescale=False),
        SiglipImageProcessor(do_normalize=False),
        SiglipImageProcessor(do_normalize=False, image_mean=None, image_std=None),
        SiglipImageProcessor(do_resize=False),
        timm_processor(0.875),
    ],
)
def test_a_preparation_that_does_more_than_the_card_says_is_refused_by_name(processor):
    said = f"vision_expert: its {type(processor).__name__} .* cannot be written on the card"
    with pytest.raises(ValueError, match=said):
        export_module._preparation("vision_expert", source_of(processor))
