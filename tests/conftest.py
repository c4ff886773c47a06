"""Tiny models of the real architectures, and a root in which all steps have run on them."""

from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DebertaV2Tokenizer,
    SiglipForImageClassification,
    SiglipImageProcessor,
)
from transformers.models.siglip import SiglipConfig

from lib.config import Settings
from lib.confounders import generate
from lib.run import run

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_backbones(tmp_path_factory) -> dict[str, Path]:
    """A DebertaV2 and a Siglip of a few thousand weights, with real tokenizer and processor."""
    folder = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(0)
    return {
        "text_model": _tiny_deberta(folder / "deberta"),
        "vision_model": _tiny_siglip(folder / "siglip"),
    }


def _tiny_deberta(folder: Path) -> Path:
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([meme.ocr for meme in generate(200, seed=7)]),
        model_prefix=str(folder / "spm"),
        vocab_size=300,
        hard_vocab_limit=False,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        unk_piece="[UNK]",
        minloglevel=2,
    )
    tokenizer = DebertaV2Tokenizer.from_pretrained(folder, vocab_file=str(folder / "spm.model"))
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        max_position_embeddings=128,
        pooler_hidden_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    DebertaV2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tiny_siglip(folder: Path) -> Path:
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 16,
    }
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
    config = SiglipConfig(vision_config=vision, text_config=text | {"intermediate_size": 64})
    SiglipForImageClassification(config).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def full_root(tiny_backbones, tmp_path_factory) -> Settings:
    """Settings of a root in which a full run on 150 generated memes has finished."""
    root = tmp_path_factory.mktemp("full")
    parameters = {
        "mode": "full",
        "root": str(root),
        "dataset": "confounders",
        "n_memes": 150,
        "fusion_seeds": 2,
        "fusion_epochs": 3,
        "text_epochs": 2,
        "vision_epochs": 1,
        "workers": 0,
    } | {name: str(folder) for name, folder in tiny_backbones.items()}
    run(parameters)
    return Settings(**parameters)
