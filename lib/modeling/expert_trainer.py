"""The Trainer of an expert: its samples, batches, loss, metrics and arguments."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from sklearn.utils.class_weight import compute_class_weight
from timm.utils.model import freeze_batch_norm_2d
from torchvision.transforms import RandomHorizontalFlip
from tqdm import tqdm
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from lib.calibration import decision_metrics
from lib.config import Settings
from lib.data.datasets import MemeShards
from lib.modeling import backbones, trainable_layers
from lib.modeling.device import bf16_pays, default_device
from lib.modeling.encoders import head_name

ID2LABEL = {0: "non-hate", 1: "hate"}


class _MemeTrainer(Trainer):
    """Stops at the first loss that is not finite, naming the memes of that batch."""

    def compute_loss(self, model, inputs, return_outputs=False, **options):
        ids = inputs.pop("ids")
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **options)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.state.global_step} on the memes "
                f"{', '.join(ids)}; the last good checkpoint stays in {self.args.output_dir}. "
                "Lower the learning rate (text_lr, vision_lr) or set bf16=false, and run again"
            )
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = {key: value for key, value in inputs.items() if key != "ids"}
        # Evaluation needs no batch names, and Trainer gathers every input it is given.
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**self._prepare_inputs(inputs))
        return outputs.loss.detach(), outputs.logits.detach().float(), inputs["labels"]


class _Bar(TrainerCallback):
    """One progress bar over the optimiser steps, on stderr."""

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training")

    def on_step_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar.update(1)

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar.close()


def make_trainer(
    name: str, settings: Settings, train: list[Path], val: list[Path], checkpoints: Path
) -> Trainer:
    build = _text_parts if name == "text_expert" else _vision_parts
    model, processor, train_set, val_set, collate = build(settings, train, val)
    callbacks = [_Bar()]
    if val:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=settings.patience))
    trainer = _MemeTrainer(
        model=model,
        args=_arguments(name, settings, checkpoints, evaluate=bool(val)),
        data_collator=collate,
        train_dataset=train_set,
        eval_dataset=val_set,
        processing_class=processor,
        compute_loss_func=_loss(train_set.labels, settings.class_weights),
        compute_metrics=_metrics,
        callbacks=callbacks,
    )
    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)
    return trainer


def _arguments(
    name: str, settings: Settings, checkpoints: Path, evaluate: bool
) -> TrainingArguments:
    text = name == "text_expert"
    device = default_device()
    processes = PartialState(cpu=device == "cpu").num_processes
    # On a CPU the backward pass of depthwise convolutions is slower in bfloat16 than in float32.
    auto = bf16_pays(device) and (text or device != "cpu")
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=settings.text_epochs if text else settings.vision_epochs,
        learning_rate=settings.text_lr if text else settings.vision_lr,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        weight_decay=0.01,
        # The batch of an optimiser step is the same on one process and on many.
        per_device_train_batch_size=max(1, settings.batch_size // processes),
        per_device_eval_batch_size=4 * settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        activation_checkpointing=settings.gradient_checkpointing,
        bf16=auto if settings.bf16 is None else settings.bf16,
        use_cpu=device == "cpu",
        eval_strategy="epoch" if evaluate else "no",
        save_strategy="epoch" if evaluate else "no",
        save_total_limit=2,
        load_best_model_at_end=evaluate,
        metric_for_best_model="macro_f1",
        logging_strategy="steps",
        logging_steps=1 if settings.mode == "pilot" else 10,
        seed=settings.seed,
        dataloader_num_workers=0 if text else settings.workers,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        log_level="warning",
    )


def _text_parts(settings: Settings, train: list[Path], val: list[Path]) -> tuple:
    model = backbones.load(AutoModelForSequenceClassification, settings.text_model, **_head())
    model = _trainable(model, settings.text_tuning, settings)
    tokenizer = backbones.load(AutoTokenizer, settings.text_model)
    tokenizer.model_max_length = min(tokenizer.model_max_length, settings.max_length)
    encode = partial(_tokenized, tokenizer)
    train_set, val_set = (
        MemeShards(shards, encode, pictures=False) if shards else None for shards in (train, val)
    )
    return model, tokenizer, train_set, val_set, partial(_pad, DataCollatorWithPadding(tokenizer))


def _vision_parts(settings: Settings, train: list[Path], val: list[Path]) -> tuple:
    model = backbones.load(AutoModelForImageClassification, settings.vision_model, **_head())
    model = _trainable(model, settings.vision_tuning, settings)
    model = model.to(memory_format=torch.channels_last)
    # Batch statistics of a few memes would drown those of the pre-training, and would differ
    # between one process and several.
    freeze_batch_norm_2d(model)
    processor = backbones.load(AutoImageProcessor, settings.vision_model)
    flip = RandomHorizontalFlip(0.5)
    train_set = MemeShards(train, partial(_pixels, processor, flip))
    val_set = MemeShards(val, partial(_pixels, processor, None)) if val else None
    return model, processor, train_set, val_set, _stack


def _trainable(model: Any, kind: trainable_layers.Tuning, settings: Settings) -> Any:
    return trainable_layers.prepare(
        model, head_name(model), kind, settings.top_k, settings.lora_rank
    )


def _head() -> dict[str, Any]:
    label2id = {label: index for index, label in ID2LABEL.items()}
    return {
        "num_labels": len(ID2LABEL),
        "id2label": ID2LABEL,
        "label2id": label2id,
        "ignore_mismatched_sizes": True,
    }


def _tokenized(tokenizer: Any, sample: Mapping[str, Any]) -> dict[str, Any]:
    return dict(tokenizer(sample["text"], truncation=True)) | {
        "labels": sample["label"],
        "ids": sample["id"],
    }


def _pad(pad: DataCollatorWithPadding, rows: list[dict[str, Any]]) -> dict[str, Any]:
    ids = [row.pop("ids") for row in rows]
    return dict(pad(rows)) | {"ids": ids}


def _pixels(processor: Any, flip: Any, sample: Mapping[str, Any]) -> dict[str, Any]:
    image = flip(sample["image"]) if flip else sample["image"]
    pixels = processor(image, return_tensors="pt")["pixel_values"][0]
    return {"pixel_values": pixels, "labels": sample["label"], "ids": sample["id"]}


def _stack(rows: list[dict[str, Any]]) -> dict[str, Any]:
    pixels = torch.stack([row["pixel_values"] for row in rows])
    return {
        "pixel_values": pixels.contiguous(memory_format=torch.channels_last),
        "labels": torch.tensor([row["labels"] for row in rows]),
        "ids": [row["ids"] for row in rows],
    }


def _loss(labels: Sequence[int], balanced: bool) -> Callable[..., torch.Tensor]:
    """Cross-entropy averaged over an optimiser step's memes, however they are spread.

    Not over a batch: neither accumulation nor a second process may change the step. `balanced`
    weights a class by n / (2 * its count), which is 1 on average over the memes.
    """
    weights = None
    if balanced:
        weights = compute_class_weight("balanced", classes=np.array([0, 1]), y=np.asarray(labels))
        weights = torch.tensor(weights, dtype=torch.float32)

    def loss(outputs, labels, num_items_in_batch=None):
        logits = outputs["logits"].float()
        weight = None if weights is None else weights.to(logits.device)
        total = torch.nn.functional.cross_entropy(logits, labels, weight, reduction="sum")
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss


def _metrics(evaluated: EvalPrediction) -> dict[str, float]:
    scores = decision_metrics(evaluated.predictions.argmax(axis=1), evaluated.label_ids)
    return {name: scores[name] for name in ("accuracy", "macro_f1")}
