"""Fine-tune the text expert and the vision expert on `labels.abuse_hate`.

As a program it trains one expert, on several processes or machines under torchrun:
`torchrun --nproc-per-node 2 -m lib.experts text_expert --config configs/full.yaml`
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import PartialState
from sklearn.metrics import accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight
from timm.utils.model import freeze_batch_norm_2d, unfreeze_batch_norm_2d
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
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import get_last_checkpoint

from lib import backbones, tuning
from lib.artifacts import atomic_path, fingerprint, guard_overwrite, read_json, write_json
from lib.config import Settings
from lib.datasets import MemeShards, shard_paths

ID2LABEL = {0: "non-hate", 1: "hate"}


@dataclass(frozen=True)
class Expert:
    """A trained expert: where it lies, and its training log (a list of Trainer's log entries)."""

    folder: Path
    history: list[dict[str, float]]


def train_expert(name: str, settings: Settings) -> Expert:
    """Fine-tune "text_expert" or "vision_expert" on the packed shards and save it under `models/`.

    A full run evaluates on val after each epoch, keeps the epoch of best macro-F1, stops early,
    takes up the last checkpoint of a killed run, and returns at once what an equal run finished.
    Raises FileNotFoundError where shards are missing, FileExistsError where a full run's expert
    from other data or backbone would be lost, FloatingPointError when the loss turns NaN.
    """
    transformers.set_seed(settings.seed)
    train = shard_paths(settings.shards, "train")
    val = shard_paths(settings.shards, "val") if settings.mode == "full" else []
    job = _job(name, settings, [*train, *val])
    folder = settings.model_folder(name)
    if settings.mode == "full" and not settings.overwrite and _finished(folder, job):
        return Expert(folder, read_json(folder / "history.json", "Step 4"))
    origin = {key: job[key] for key in ("mode", "backbone", "data")}
    guard_overwrite(folder / "made_from.json", origin, settings.overwrite)
    checkpoints = settings.models / ".training" / name
    with PartialState(cpu=default_device() == "cpu").main_process_first():
        resume = _checkpoint_of(checkpoints, job)
    trainer = _trainer(name, settings, train, val, checkpoints)
    trainer.train(resume_from_checkpoint=resume)
    history = [_epoch_log(entry) for entry in trainer.state.log_history]
    if trainer.is_world_process_zero():
        _save(trainer, folder, origin, job, history)
        shutil.rmtree(checkpoints)
    trainer.accelerator.wait_for_everyone()
    return Expert(folder, history)


def load_expert(folder: str | Path) -> tuple[Any, Any]:
    """Load an expert in eval mode with its tokenizer or image processor.

    Raises FileNotFoundError naming the folder and the step that fills it.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no trained expert; train it with Step 4: python -m lib.run --from 4"
        )
    model_class, processor_class = _CLASSES[folder.name]
    model = model_class.from_pretrained(folder)
    return model.eval(), processor_class.from_pretrained(folder)


def head_name(model: Any) -> str:
    """The name of the last layer of a classifier of transformers or timm."""
    timm_model = getattr(model, "timm_model", None)
    if timm_model is not None:
        return f"timm_model.{timm_model.default_cfg['classifier']}"
    return next(name for name in ("classifier", "score") if hasattr(model, name))


def bf16_pays(device: str) -> bool:
    """Whether the device computes bfloat16 in hardware, so that autocast gains time."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def default_device() -> str:
    """The accelerator's name if there is one, else "cpu"."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator else "cpu"


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


def _trainer(
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
    model = _tuned(model, settings.text_tuning, settings)
    tokenizer = backbones.load(AutoTokenizer, settings.text_model)
    tokenizer.model_max_length = min(tokenizer.model_max_length, settings.max_length)
    encode = partial(_tokenized, tokenizer)
    train_set, val_set = (
        MemeShards(shards, encode, pictures=False) if shards else None for shards in (train, val)
    )
    return model, tokenizer, train_set, val_set, partial(_pad, DataCollatorWithPadding(tokenizer))


def _vision_parts(settings: Settings, train: list[Path], val: list[Path]) -> tuple:
    model = backbones.load(AutoModelForImageClassification, settings.vision_model, **_head())
    model = _tuned(model, settings.vision_tuning, settings)
    model = model.to(memory_format=torch.channels_last)
    # Batch statistics of a few memes would drown those of the pre-training, and would differ
    # between one process and several.
    freeze_batch_norm_2d(model)
    processor = backbones.load(AutoImageProcessor, settings.vision_model)
    flip = RandomHorizontalFlip(0.5)
    train_set = MemeShards(train, partial(_pixels, processor, flip))
    val_set = MemeShards(val, partial(_pixels, processor, None)) if val else None
    return model, processor, train_set, val_set, _stack


def _tuned(model: Any, kind: tuning.Tuning, settings: Settings) -> Any:
    return tuning.prepare(model, head_name(model), kind, settings.top_k, settings.lora_rank)


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
    predicted = evaluated.predictions.argmax(axis=1)
    return {
        "accuracy": accuracy_score(evaluated.label_ids, predicted),
        "macro_f1": f1_score(evaluated.label_ids, predicted, average="macro"),
    }


def _job(name: str, settings: Settings, shards: list[Path]) -> dict[str, Any]:
    """All that decides the weights of the expert to be trained."""
    text = name == "text_expert"
    knobs = ("seed", "batch_size", "gradient_accumulation", "max_length", "class_weights")
    knobs += ("top_k", "lora_rank")
    return {
        "mode": settings.mode,
        "backbone": settings.text_model if text else settings.vision_model,
        "data": fingerprint(*shards),
        "epochs": settings.text_epochs if text else settings.vision_epochs,
        "learning_rate": settings.text_lr if text else settings.vision_lr,
        "tuning": settings.text_tuning if text else settings.vision_tuning,
        "patience": settings.patience,
        "bf16": settings.bf16,
    } | {knob: getattr(settings, knob) for knob in knobs}


def _finished(folder: Path, job: Mapping[str, Any]) -> bool:
    file = folder / "training.json"
    return file.exists() and json.loads(file.read_text(encoding="utf-8")) == job


def _checkpoint_of(checkpoints: Path, job: Mapping[str, Any]) -> str | None:
    """The last checkpoint of this very job; those of another are thrown away."""
    file = checkpoints / "job.json"
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) == job:
        for checkpoint in checkpoints.glob("checkpoint-*"):
            # The Trainer writes this file last: without it a kill cut the writing short.
            if not (checkpoint / TRAINER_STATE_NAME).exists():
                shutil.rmtree(checkpoint)
        return get_last_checkpoint(str(checkpoints))
    shutil.rmtree(checkpoints, ignore_errors=True)
    write_json(file, job)
    return None


def _epoch_log(entry: Mapping[str, float]) -> dict[str, float]:
    """A log entry without its timings, which differ from run to run."""
    return {
        key: value
        for key, value in entry.items()
        if not key.endswith(("_runtime", "_per_second", "total_flos"))
    }


def _save(
    trainer: Trainer,
    folder: Path,
    origin: Mapping[str, Any],
    job: Mapping[str, Any],
    history: list[dict[str, float]],
) -> None:
    model = tuning.merge(trainer.model)
    unfreeze_batch_norm_2d(model)
    with atomic_path(folder) as new:
        new.mkdir()
        model.save_pretrained(new)
        trainer.processing_class.save_pretrained(new)
        write_json(new / "history.json", history)
        write_json(new / "training.json", job)
        write_json(new / "made_from.json", origin)


_CLASSES = {
    "text_expert": (AutoModelForSequenceClassification, AutoTokenizer),
    "vision_expert": (AutoModelForImageClassification, AutoImageProcessor),
}


def main() -> int:
    """Train one expert with the settings of a configuration file; 2 if it cannot."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("expert", choices=sorted(_CLASSES))
    parser.add_argument("--config", required=True, help="YAML file of settings")
    parser.add_argument("--root", help="folder of shards and models; default: the project's")
    options = parser.parse_args()
    root = {"root": options.root} if options.root else {}
    try:
        expert = train_expert(options.expert, Settings.from_file(options.config, **root))
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"saved {expert.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
