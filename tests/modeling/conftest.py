"""Tiny dual encoders of the real architectures, and roots whose experts took no training."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipTokenizer,
)

from lib.config import Settings
from lib.data.confounders.design import generate
from lib.modeling.encoders import EXPERTS
from lib.modeling.expert_inputs import classifier

# The usual deviation of new weights lets so narrow a model see next to nothing of its input.
TOWER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_factor": 3.0,
}


@pytest.fixture(scope="session")
def dual_encoder(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a tiny "clip", "siglip" or "siglip2" of a few ten thousand weights."""
    folder = tmp_path_factory.mktemp("dual")
    kinds = {"clip": _clip, "siglip": _siglip, "siglip2": _siglip2}

    def made(kind: str) -> Path:
        if not (folder / kind).exists():
            (folder / kind).mkdir()
            torch.manual_seed(0)
            kinds[kind](folder / kind)
        return folder / kind

    return made


def _words() -> list[str]:
    return [meme.ocr for meme in generate(200, seed=7)]


def _clip(folder: Path) -> None:
    marks = ["<|startoftext|>", "<|endoftext|>"]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=marks[1]))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=marks,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    vocab, merges = _trained(bpe, trainer)
    vocab |= {f"{mark}</w>": len(vocab) + place for place, mark in enumerate(sorted(alphabet))}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = TOWER | ends | {"vocab_size": 1 + max(vocab.values()), "max_position_embeddings": 77}
    config = CLIPConfig(
        text_config=text,
        vision_config=TOWER | {"image_size": 32, "patch_size": 16},
        projection_dim=24,
        initializer_factor=3.0,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessor(**sizes).save_pretrained(folder)


def _siglip(folder: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_words()),
        model_prefix=str(folder / "spiece"),
        vocab_size=300,
        hard_vocab_limit=False,
        pad_id=-1,
        bos_id=-1,
        unk_id=0,
        eos_id=1,
        minloglevel=2,
    )
    tokenizer = SiglipTokenizer(vocab_file=str(folder / "spiece.model"))
    config = SiglipConfig(
        text_config=TOWER | {"vocab_size": len(tokenizer), "projection_size": 32} | _no_ends(),
        vision_config=TOWER | {"image_size": 32, "patch_size": 16},
    )
    SiglipModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def _siglip2(folder: Path) -> None:
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    small = [normalizers.Lowercase(), normalizers.Replace(" ", "▁")]
    bpe.normalizer = normalizers.Sequence(small)
    bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_previous")
    options = {"vocab_size": 400, "special_tokens": marks, "show_progress": False}
    vocab, merges = _trained(bpe, trainers.BpeTrainer(**options))
    tokenizer = Siglip2Tokenizer(vocab=vocab, merges=merges, model_max_length=64)
    end = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.backend_tokenizer.post_processor = end
    config = Siglip2Config(
        text_config=TOWER | {"vocab_size": len(vocab), "projection_size": 32} | _no_ends(),
        vision_config=TOWER | {"num_patches": 16, "patch_size": 8},
    )
    Siglip2Model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(folder)


def _trained(
    bpe: Tokenizer, trainer: trainers.BpeTrainer
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    bpe.train_from_iterator(_words(), trainer)
    found = json.loads(bpe.to_str())["model"]
    return found["vocab"], [tuple(merge) for merge in found["merges"]]


def _no_ends() -> dict[str, None]:
    # The defaults lie beyond so small a vocabulary.
    return {"bos_token_id": None, "eos_token_id": None}


@pytest.fixture
def with_experts(fresh) -> Callable[..., Settings]:
    """Settings like `fresh` of a root whose experts are the backbones, their last layer random."""

    def settings(**changed) -> Settings:
        found = fresh(**({"fusion_features": "experts", "fusion_epochs": 3} | changed))
        for name in EXPERTS:
            torch.manual_seed(1)
            for part in classifier(name, found):
                part.save_pretrained(found.model_folder(name))
        return found

    return settings
