"""What an expert is trained on: its model, its memes as model inputs, and how they make a batch."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from timm.utils.model import freeze_batch_norm_2d
from torch.nn.functional import cross_entropy
from torch.utils.data import Subset
from torchvision.transforms import RandomHorizontalFlip
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from lib.commands import again
from lib.config import Settings
from lib.data.altered_pictures import altered
from lib.data.datasets import MemeShards, shard_paths
from lib.data.folding import TEXT_FOLDING
from lib.data.val_parts import selecting_rows
from lib.modeling import backbones, trainable_layers
from lib.modeling.device import default_device
from lib.modeling.encoders import (
    Encoders,
    VisionEncoder,
    drops_markers,
    folding_of,
    head_name,
    shown_texts,
)
from lib.modeling.features import Features, encode_shards
from lib.modeling.model_files import processor_options

ID2LABEL = {0: "non-hate", 1: "hate"}


@dataclass(frozen=True)
class ExpertInputs:
    """All that the training of an expert reads.

    `model` learns, `whole` is what is saved in the end (the same, or what holds it). `train` and
    `val` are the memes to learn from and to choose the epoch on, the latter of the half of val that
    calibrates nothing; `rows` are the places of the former among the packed train memes, `labels`
    and `lengths` (of texts, in tokens) belong to them. `plain` are all of these, not augmented, and
    `altered`, with that setting, the same with their pictures altered.
    """

    model: torch.nn.Module
    whole: torch.nn.Module
    processor: Any
    train: Any
    plain: Any
    val: Any
    collate: Callable
    rows: list[int]
    labels: list[int]
    lengths: list[int] | None = None
    altered: Any = None


def expert_inputs(name: str, settings: Settings, evaluate: bool) -> ExpertInputs:
    """Model and memes of "text_expert" or "vision_expert"; `val` only with `evaluate`.

    Raises FileNotFoundError where shards are missing, OSError where the backbone is, ValueError
    where no meme has a picture for the vision expert.
    """
    splits = {"train": shard_paths(settings.shards, "train")}
    if evaluate:
        splits["val"] = shard_paths(settings.shards, "val")
    if name == "text_expert":
        return _text_inputs(settings, splits)
    if frozen(name, settings):
        return _head_inputs(settings, splits)
    return _vision_inputs(settings, splits)


def frozen(name: str, settings: Settings) -> bool:
    """Whether nothing but the last layer of an expert learns."""
    tuning = settings.text_tuning if name == "text_expert" else settings.vision_tuning
    return tuning == "top_k" and settings.top_k == 0


def classifier(name: str, settings: Settings) -> tuple[Any, Any]:
    """The backbone of an expert with a new last layer for two classes, and its processor.

    Raises OSError where the backbone cannot be found.
    """
    head = {
        "num_labels": len(ID2LABEL),
        # A backbone that was trained for several labels says otherwise.
        "problem_type": "single_label_classification",
        "id2label": ID2LABEL,
        "label2id": {label: index for index, label in ID2LABEL.items()},
        "ignore_mismatched_sizes": True,
        # mDeBERTa lies on the hub in half precision, in which it could not be fine-tuned.
        "dtype": torch.float32,
    }
    if name == "text_expert":
        loaded = backbones.load(
            AutoModelForSequenceClassification,
            settings.text_model,
            output_loading_info=True,
            **head,
        )
        model, found = loaded
        # Layers that the backbone lacks have to learn, whatever else does.
        model.newly_drawn = sorted(found["missing_keys"])
        # Kept with the model, so that it is always shown what it was trained on.
        model.config.text_markers = settings.text_markers
        model.config.text_folding = text_folding(settings)
        tokenizer = backbones.load(AutoTokenizer, settings.text_model)
        tokenizer.model_max_length = min(tokenizer.model_max_length, settings.max_length)
        return model, tokenizer
    model = backbones.load(AutoModelForImageClassification, settings.vision_model, **head)
    # Batch statistics of a few memes would drown those of the pre-training, and would differ
    # between one process and several.
    freeze_batch_norm_2d(model)
    options = processor_options(model)
    processor = backbones.load(AutoImageProcessor, settings.vision_model, **options)
    if settings.vision_size is not None:
        processor = backbones.shown_at(settings.vision_size, model, processor)
    return model, processor


def text_folding(settings: Settings) -> int:
    """The version of the text folding that models are trained with by these settings, 0: none."""
    return TEXT_FOLDING if settings.text_folding else 0


def text_lengths(settings: Settings) -> pd.DataFrame:
    """How many tokens the packed texts have, a row a split, beside what `max_length` cuts.

    Columns: memes, median, 95%, 99%, longest (tokens), max_length, cut (memes).
    """
    tokenizer = backbones.load(AutoTokenizer, settings.text_model)
    limit = min(tokenizer.model_max_length, settings.max_length)
    rows = {}
    for split in ("train", "val") if settings.mode == "full" else ("train",):
        memes = MemeShards(shard_paths(settings.shards, split), pictures=False)
        markers = settings.text_markers == "drop"
        texts = shown_texts(memes.texts, markers, text_folding(settings))
        tokens = pd.Series([len(ids) for ids in tokenizer(texts)["input_ids"]])
        quantiles = tokens.quantile([0.5, 0.95, 0.99, 1.0], interpolation="higher").tolist()
        names = ("median", "95%", "99%", "longest")
        rows[split] = {"memes": len(tokens), **dict(zip(names, quantiles, strict=True))}
        rows[split] |= {"max_length": limit, "cut": int((tokens > limit).sum())}
    return pd.DataFrame(rows).T


def _text_inputs(settings: Settings, splits: Mapping[str, list[Path]]) -> ExpertInputs:
    model, tokenizer = classifier("text_expert", settings)
    newly_drawn = model.newly_drawn
    model = _trainable(model, settings.text_tuning, settings)
    if settings.text_tuning == "top_k":
        for parameter in map(model.get_parameter, newly_drawn):
            parameter.requires_grad_(True)
    sets, lengths = {}, {}
    for split, shards in splits.items():
        memes = MemeShards(shards, pictures=False)
        shown = shown_texts(memes.texts, drops_markers(model), folding_of(model))
        sets[split], lengths[split] = _tokenised(tokenizer, memes, shown, split)
        if split == "val":
            sets[split] = Subset(sets[split], selecting_rows(memes.labels, memes.groups))
    return ExpertInputs(
        model,
        model,
        tokenizer,
        sets["train"],
        sets["train"],
        sets.get("val"),
        partial(_pad, DataCollatorWithPadding(tokenizer)),
        list(range(len(sets["train"]))),
        [example["labels"] for example in sets["train"]],
        lengths["train"],
    )


def _tokenised(
    tokenizer: Any, memes: MemeShards, texts: Sequence[str], split: str
) -> tuple[list[dict[str, Any]], list[int]]:
    """The texts as model inputs and their lengths in tokens; a warning if some are cut."""
    encoded = tokenizer(texts, truncation=True)["input_ids"]
    limit = tokenizer.model_max_length
    full = [row for row, ids in enumerate(encoded) if len(ids) == limit]
    whole = tokenizer([texts[row] for row in full])["input_ids"] if full else []
    cut = [len(ids) for ids in whole if len(ids) > limit]
    if cut:
        warnings.warn(
            f"{len(cut)} of {len(memes)} texts of {split} are longer than max_length={limit} "
            f"tokens (the longest {max(cut)}) and are cut there; raise max_length to keep them",
            stacklevel=2,
        )
    rows = zip(encoded, memes.labels, memes.ids, strict=True)
    examples = [
        {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": label, "ids": meme}
        for ids, label, meme in rows
    ]
    return examples, [len(ids) for ids in encoded]


def _vision_inputs(settings: Settings, splits: Mapping[str, list[Path]]) -> ExpertInputs:
    model, processor = classifier("vision_expert", settings)
    model = _trainable(model, settings.vision_tuning, settings)
    model = model.to(memory_format=torch.channels_last)
    flip = RandomHorizontalFlip(0.5)
    train = MemeShards(splits["train"], partial(_pixels, processor, flip))
    plain = MemeShards(splits["train"], partial(_pixels, processor, None))
    rows, val = _with_picture(train, "train"), None
    if "val" in splits:
        val = MemeShards(splits["val"], partial(_pixels, processor, None))
        val = Subset(val, _with_picture(val, "val"))
    labels = np.array(train.labels)[rows].tolist()
    collate = partial(_stack, "pixel_values")
    seen = ExpertInputs(
        model, model, processor, Subset(train, rows), plain, val, collate, rows, labels
    )
    if not settings.altered_pictures:
        return seen
    return replace(seen, altered=MemeShards(splits["train"], partial(_altered_pixels, processor)))


def _head_inputs(settings: Settings, splits: Mapping[str, list[Path]]) -> ExpertInputs:
    """Of a frozen vision backbone every picture is seen once: its last layer learns from the cache.

    There is no flipping then: a mirrored picture would be a second pass over all of them.
    """
    whole, processor = classifier("vision_expert", settings)
    encoders = Encoders({"vision_expert": VisionEncoder(whole.eval(), processor)}, settings.bf16)
    encoders.to(default_device())
    sets, drawn = {}, {}
    encode = partial(
        encode_shards, encoders=encoders, cache=settings.features, workers=settings.workers
    )
    for split, shards in splits.items():
        sets[split] = PooledFeatures(encode(shards))
        drawn[split] = _with_picture(MemeShards(shards, pictures=False), split)
    train = Subset(sets["train"], drawn["train"])
    return ExpertInputs(
        LastLayer(whole.get_submodule(head_name(whole))),
        whole,
        processor,
        train,
        sets["train"],
        Subset(sets["val"], drawn["val"]) if "val" in sets else None,
        partial(_stack, "pooled"),
        drawn["train"],
        [sets["train"].labels[row] for row in drawn["train"]],
        altered=PooledFeatures(encode(splits["train"], altered=True))
        if settings.altered_pictures
        else None,
    )


def _with_picture(memes: MemeShards, split: str) -> list[int]:
    """The memes that have a picture; of val those that select. ValueError if there are none."""
    rows, half = memes.with_picture, ""
    if split == "val":
        selecting, half = set(selecting_rows(memes.labels, memes.groups)), "'s select half"
        rows = [row for row in rows if row in selecting]
    if not rows:
        raise ValueError(
            f"no meme of {split}{half} has a picture, and the vision expert needs some; give image "
            f"files to more rows and pack again: {again(3)}"
        )
    return rows


class PooledFeatures(torch.utils.data.Dataset):
    """Cached pooled features as training examples, read one by one."""

    def __init__(self, features: Features) -> None:
        self.pooled, self.ids = features.arrays["vision_pooled"], features.ids
        self.labels = features.labels.tolist()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"pooled": self.pooled[row], "labels": self.labels[row], "ids": self.ids[row]}


class LastLayer(torch.nn.Module):
    """The last layer of a classifier alone, on pooled features (B, v)."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, pooled: torch.Tensor, labels: torch.Tensor | None = None
    ) -> SequenceClassifierOutput:
        logits = self.layer(pooled)
        loss = None if labels is None else cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def _trainable(model: Any, kind: trainable_layers.Tuning, settings: Settings) -> Any:
    return trainable_layers.prepare(
        model, head_name(model), kind, settings.top_k, settings.lora_rank
    )


def _pad(pad: DataCollatorWithPadding, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    inputs = [{key: value for key, value in row.items() if key != "ids"} for row in rows]
    return dict(pad(inputs)) | {"ids": [row["ids"] for row in rows]}


def _pixels(processor: Any, flip: Any, sample: Mapping[str, Any]) -> dict[str, Any]:
    image = flip(sample["image"]) if flip else sample["image"]
    pixels = processor(image, return_tensors="pt")["pixel_values"][0]
    return {"pixel_values": pixels, "labels": sample["label"], "ids": sample["id"]}


def _altered_pixels(processor: Any, sample: Mapping[str, Any]) -> dict[str, Any]:
    return _pixels(processor, None, altered(sample))


def _stack(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    stacked = torch.stack([row[name] for row in rows])
    if stacked.ndim == 4:
        stacked = stacked.contiguous(memory_format=torch.channels_last)
    return {
        name: stacked,
        "labels": torch.tensor([row["labels"] for row in rows]),
        "ids": [row["ids"] for row in rows],
    }
