"""The Trainer of an expert: its batches, loss, metrics and arguments."""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from sklearn.utils.class_weight import compute_class_weight
from torch.utils.data import Sampler, Subset
from tqdm import tqdm
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from lib.calibration import classification_metrics, prob_hate
from lib.config import Settings
from lib.modeling.device import bf16_pays, default_device
from lib.modeling.expert_inputs import ExpertInputs, frozen
from lib.modeling.like_lengths import LikeLengths

# A setting's name for what chooses the epoch -> the Trainer's, and whether more of it is better.
SELECTED_BY = {
    "log_loss": ("loss", False),
    "auroc": ("auroc", True),
    "macro_f1": ("macro_f1", True),
}


class MemeTrainer(Trainer):
    """Stops at the first loss that is not finite, naming the memes of that batch.

    With `lengths`, one a training example, batches hold examples of like length.
    """

    def __init__(
        self, *args: Any, lengths: Sequence[int] | None = None, batch: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lengths, self.batch = lengths, batch

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if self.lengths is None:
            return super()._get_train_sampler(train_dataset)
        return LikeLengths(self.lengths, self.batch, self.args.seed)

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
    name: str,
    settings: Settings,
    inputs: ExpertInputs,
    folder: Path,
    rows: Sequence[int] | None = None,
) -> MemeTrainer:
    """A trainer of an expert on its inputs, of the examples `rows` alone if given.

    Checkpoints go to `folder`. With memes to validate on, training stops early and ends with the
    best epoch by `settings.select_by`.
    """
    chosen = range(len(inputs.train)) if rows is None else rows
    labels = [inputs.labels[row] for row in chosen]
    lengths = inputs.lengths and [inputs.lengths[row] for row in chosen]
    callbacks = [_Bar()]
    if inputs.val is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=settings.patience))
    trainer = MemeTrainer(
        model=inputs.model,
        args=_arguments(name, settings, folder, evaluate=inputs.val is not None),
        data_collator=inputs.collate,
        train_dataset=Subset(inputs.train, list(chosen)),
        eval_dataset=inputs.val,
        processing_class=inputs.processor,
        compute_loss_func=_loss(labels, settings.class_weights, settings.label_smoothing),
        compute_metrics=_metrics,
        callbacks=callbacks,
        lengths=lengths,
        # Of an optimiser step, so that accumulation does not change what is in it.
        batch=settings.batch_size * settings.gradient_accumulation,
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
    metric, more_is_better = SELECTED_BY[settings.select_by]
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
        metric_for_best_model=metric,
        greater_is_better=more_is_better,
        logging_strategy="steps",
        logging_steps=1 if settings.mode == "pilot" else 10,
        seed=settings.seed,
        dataloader_num_workers=0 if text or frozen(name, settings) else settings.workers,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        log_level="warning",
    )


def _loss(labels: Sequence[int], balanced: bool, smoothing: float = 0.0) -> Callable:
    """Cross-entropy averaged over an optimiser step's memes, however they are spread.

    Not over a batch: neither accumulation nor a second process may change the step. `balanced`
    weights a class by n / (2 * its count), which is 1 on average over the memes. `smoothing` moves
    that share of each label's weight to both classes alike (Szegedy et al. 2016).
    """
    weights = None
    if balanced:
        weights = compute_class_weight("balanced", classes=np.array([0, 1]), y=np.asarray(labels))
        weights = torch.tensor(weights, dtype=torch.float32)

    def loss(outputs, labels, num_items_in_batch=None):
        logits = outputs["logits"].float()
        weight = None if weights is None else weights.to(logits.device)
        total = torch.nn.functional.cross_entropy(
            logits, labels, weight, reduction="sum", label_smoothing=smoothing
        )
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss


def _metrics(evaluated: EvalPrediction) -> dict[str, float]:
    prob = prob_hate(evaluated.predictions)
    with warnings.catch_warnings():
        # With one class only there is no AUROC; the loss then says which epoch is best.
        warnings.filterwarnings("ignore", message="labels holds class")
        scores = classification_metrics(prob, evaluated.label_ids)
    found = {name: scores.get(name, math.nan) for name in ("accuracy", "macro_f1", "auroc")}
    return {name: value for name, value in found.items() if math.isfinite(value)}
