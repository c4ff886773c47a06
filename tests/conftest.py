"""Tiny models of the real architectures, and a root in which all steps have run on them."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# No test needs a hub, and where there is none each call would wait for it for half a minute.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd
import pytest
import sentencepiece
import torch
from filelock import FileLock
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DebertaV2Tokenizer,
    PreTrainedTokenizerFast,
    SiglipForImageClassification,
    SiglipImageProcessor,
)
from transformers.models.siglip import SiglipConfig

from lib.config import MODELS, Settings
from lib.data.confounders.design import generate
from lib.data.packing.pack import pack
from lib.data.sources import examples_for
from lib.modeling.prediction_table import model_fingerprints
from lib.run import run_steps

torch.set_num_threads(1)
# Programs and kernels that a test starts: two threads that wait by spinning starve each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that no process of several is left with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_end_to_end.py")


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    """Chromium or Chrome, driven by playwright, whose event loop runs until it is left."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium; install it with: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id) -> Callable[[str, Callable[[Path], None]], Path]:
    """Call it with a name and what fills a folder: several test processes have it made by one.

    It returns that folder, which all of them share and none may change.
    """
    base = tmp_path_factory.getbasetemp()
    common = base if worker_id == "master" else base.parent

    def folder(name: str, fill: Callable[[Path], None]) -> Path:
        made = common / name
        with FileLock(common / f"{name}.lock"):
            if not made.exists():
                scratch = common / f"{name}-unfinished"
                fill(scratch)
                scratch.rename(made)
        return made

    return folder


@pytest.fixture(scope="session")
def tiny_backbones(made_once) -> dict[str, Path]:
    """A DebertaV2 and a Siglip of a few thousand weights, with real tokenizer and processor."""
    folder = made_once("backbones", _tiny_backbones)
    return {"text_model": folder / "deberta", "vision_model": folder / "siglip"}


def _tiny_backbones(folder: Path) -> None:
    folder.mkdir()
    torch.manual_seed(0)
    _tiny_deberta(folder / "deberta")
    _tiny_siglip(folder / "siglip")


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
        # The usual 0.02 lets so narrow a model see next to nothing of its input.
        initializer_range=0.2,
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
def save_tiny_bert() -> Callable[..., Path]:
    """Call it with a folder, and the words that the tokenizer shall know."""
    return _save_tiny_bert


def _save_tiny_bert(folder: Path, words: Sequence[str] = ()) -> Path:
    """Save a BERT of width 16 with random weights and a tokenizer that knows `words`."""
    letters = list("abcdefghijklmnopqrstuvwxyz?!.,")
    vocabulary = ["[PAD]", "[UNK]", *letters, *(f"##{c}" for c in letters), *words]
    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def full_root(tiny_backbones, made_once, tmp_path_factory) -> Settings:
    """Settings of a root in which a full run on 150 generated memes has finished."""
    parameters: dict[str, Any] = {
        "mode": "full",
        "dataset": "confounders",
        "n_memes": 150,
        "fusion_members": 2,
        "fusion_seeds": 2,
        "folds": 2,
        "fusion_epochs": 3,
        "text_epochs": 2,
        "vision_epochs": 1,
        "robustness_memes": 12,
        "workers": 0,
    } | {name: str(folder) for name, folder in tiny_backbones.items()}
    made = made_once("full", lambda root: run_steps(parameters | {"root": str(root)}))
    # Of its own, since tests run steps in it again.
    root = tmp_path_factory.mktemp("full") / "root"
    shutil.copytree(made, root, symlinks=True)
    return Settings(**parameters, root=root)


@pytest.fixture(scope="session")
def packed(tmp_path_factory) -> Path:
    """A Step_3 folder of 64 generated memes in train, val and test."""
    settings = Settings(
        mode="full", root=tmp_path_factory.mktemp("packed"), dataset="confounders", n_memes=64
    )
    pack(examples_for(settings), settings.step3, mode="full", seed=0, workers=0)
    return settings.step3.parent


@pytest.fixture
def fresh(packed, tiny_backbones, tmp_path) -> Callable[..., Settings]:
    """Settings of a root that holds `packed` and no model yet, changed by keyword."""
    folders = {name: str(folder) for name, folder in tiny_backbones.items()}

    def settings(name: str = "root", **changed) -> Settings:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        if not (root / "Step_3").exists():
            (root / "Step_3").symlink_to(packed)
        common = {"mode": "full", "root": root, "dataset": "confounders", "workers": 0}
        # Bfloat16, where the processor has it, would blur the comparisons.
        common |= {"bf16": False}
        return Settings(**(common | folders | changed))

    return settings


@pytest.fixture(scope="session")
def logits_frame(tmp_path_factory) -> Callable[..., pd.DataFrame]:
    """Predictions as Step 6 writes them, of `model_folders`; each meme is a group of its own.

    Fusion tells the classes best, all are overconfident.
    """

    def frame(n: int = 200, split: str = "val", seed: int = 0) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        label = np.arange(n) % 2
        ids = [f"{split}{i}" for i in range(n)]
        part = "calibrate" if split == "val" else ""
        columns = {"id": ids, "split": split, "part": part, "group": ids, "label": label}
        for model, strength in zip(MODELS, (0.4, 0.2, 1.2), strict=True):
            margin = 4 * (rng.normal(size=n) + strength * (2 * label - 1))
            columns |= {f"{model}_logit_0": -margin / 2, f"{model}_logit_1": margin / 2}
        found = pd.DataFrame(columns)
        found.attrs = {"models": placeholders(tmp_path_factory.mktemp("models"))}
        return found

    return frame


def placeholders(models: Path) -> dict[str, str]:
    """Fill a folder of models with a file each and return their fingerprints."""
    for name in MODELS:
        (models / name).mkdir(parents=True)
        (models / name / "model.safetensors").write_bytes(name.encode())
    return model_fingerprints(models)


@pytest.fixture
def model_folders(tmp_path) -> Settings:
    """Full-mode settings of a root whose models are three folders with a file each."""
    settings = Settings(mode="full", root=tmp_path / "run")
    placeholders(settings.models)
    settings.artifact(6, "predictions.parquet").parent.mkdir(parents=True)
    settings.artifact(6, "predictions.parquet").write_bytes(b"predictions")
    return settings
