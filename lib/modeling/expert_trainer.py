"""The Trainer of an expert: its batches, loss, metrics and arguments."""

import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from sklearn.utils.class_weight import compute_class_weight
from torch.utils.data import DistributedSampler, Sampler, Subset
from tqdm import tqdm
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState

from lib.calibration import calibrated_loss, classification_metrics, prob_hate
from lib.config import Settings
from lib.modeling import freed_memory
from lib.modeling.device import default_device, trains_in_bf16
from lib.modeling.expert_inputs import ExpertInputs, frozen
from lib.modeling.filled_batches import FilledUp, WithBlank
from lib.modeling.like_lengths import LikeLengths
from lib.modeling.trainable_layers import layer_groups

# A setting's name for what chooses the epoch -> the Trainer's, and whether more of it is better.
SELECTED_BY = {
    "calibrated_loss": ("calibrated_loss", False),
    "log_loss": ("loss", False),
    "auroc": ("auroc", True),
    "macro_f1": ("macro_f1", True),
}


class MemeTrainer(Trainer):
    """Stops at the first loss that is not finite, naming the memes of that batch.

    With `lengths`, one a training example, batches hold examples of like length. Each block of the
    backbone learns at `layer_decay` times the rate of the block above it.
    """

    optimizer: Any

    def __init__(
        self,
        *args: Any,
        lengths: Sequence[int] | None = None,
        batch: int = 1,
        layer_decay: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lengths, self.batch, self.layer_decay = lengths, batch, layer_decay

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        if self.layer_decay == 1 or self.optimizer is not None:
            return super().create_optimizer(*args, **kwargs)
        parameters = dict(self.model.named_parameters())
        decaying = set(self.get_decay_parameter_names(self.model))
        groups = [
            {
                "params": [parameters[name] for name in names if (name in decaying) == decays],
                "lr": rate,
                "weight_decay": self.args.weight_decay if decays else 0.0,
            }
            for rate, names in layer_groups(self.model, self.args.learning_rate, self.layer_decay)
            for decays in (True, False)
        ]
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer = kind([group for group in groups if group["params"]], **options)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        # Orders of seed and epoch alone: the same on one process and on several, and after a kill.
        sampler: Any
        if self.lengths is None:
            sampler = DistributedSampler(
                self.train_dataset, num_replicas=1, rank=0, seed=self.args.seed
            )
        else:
            sampler = LikeLengths(self.lengths, self.batch, self.args.seed)
        if self.args.world_size == 1:
            return sampler
        return FilledUp(sampler, self.args.train_batch_size * self.args.world_size)

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

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        found = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        # Of several processes the last batch is filled up, and Trainer's mean would count that.
        exact = found.metrics.pop(f"{metric_key_prefix}_log_loss", None)
        if exact is not None:
            found.metrics[f"{metric_key_prefix}_loss"] = exact
        return found


class _Bar(TrainerCallback):
    """One progress bar over the optimiser steps, on stderr."""

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training")

    def on_step_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar.update(1)

    def on_epoch_end(self, args, state, control, **kwargs):
        # A checkpoint keeps no running mean of the loss, so none may be open when it is written.
        control.should_log = True
        return control

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
    freed_memory.reuse()
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
        train_dataset=WithBlank(Subset(inputs.train, list(chosen))),
        eval_dataset=inputs.val,
        processing_class=inputs.processor,
        compute_loss_func=_loss(labels, settings.class_weights, settings.label_smoothing),
        compute_metrics=_metrics,
        callbacks=callbacks,
        lengths=lengths,
        layer_decay=1.0 if frozen(name, settings) else settings.layer_decay,
        # Of an optimiser step, so that accumulation does not change what is in it.
        batch=settings.batch_size * settings.gradient_accumulation,
    )
    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)
    return trainer


def train_on(trainer: Trainer, checkpoint: str | None) -> None:
    """Train, from a checkpoint on if there is one; no further, if patience had ended it there."""
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        control = state.stateful_callbacks.get("TrainerControl", {})
        if control.get("args", {}).get("should_training_stop"):
            # Trainer would forget it and train an epoch more.
            trainer.args.num_train_epochs = round(state.epoch or 0)
    trainer.train(resume_from_checkpoint=checkpoint)


def _arguments(
    name: str, settings: Settings, checkpoints: Path, evaluate: bool
) -> TrainingArguments:
    text = name == "text_expert"
    device = default_device()
    processes = PartialState(cpu=device == "cpu").num_processes
    metric, more_is_better = SELECTED_BY[settings.select_by]
    if settings.batch_size % processes:
        raise ValueError(
            f"batch_size={settings.batch_size} cannot be shared evenly by {processes} processes; "
            f"set it to a multiple of {processes}, or start another number of processes"
        )
    if settings.report_to == "tensorboard":
        # Trainer's own place lies among the checkpoints, which go once the expert is saved.
        place = settings.run_folder / "tensorboard" / checkpoints.name
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(place)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=settings.text_epochs if text else settings.vision_epochs,
        learning_rate=settings.text_lr if text else settings.vision_lr,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        weight_decay=0.01,
        # The batch of an optimiser step is the same on one process and on many.
        per_device_train_batch_size=settings.batch_size // processes,
        per_device_eval_batch_size=4 * settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        # A last layer alone has nothing in between to compute again, and no switch for it.
        activation_checkpointing=settings.gradient_checkpointing and not frozen(name, settings),
        # SigLIP has a pooling layer that its classifier does not read.
        ddp_find_unused_parameters=True,
        bf16=trains_in_bf16(settings.bf16, device, convolutions=not text),
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        accelerator_config={"non_blocking": device != "cpu"},
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
        # Or the epochs that patience has already waited for would be waited for again.
        restore_callback_states_from_checkpoint=True,
        report_to=settings.report_to,
        disable_tqdm=True,
        log_level="warning",
    )
    # Several GPUs in one process would each take a whole batch; torchrun gives each its process.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _loss(labels: Sequence[int], balanced: bool, smoothing: float = 0.0) -> Callable:
    """Cross-entropy averaged over an optimiser step's memes, however they are spread.

    Not over a batch: neither accumulation nor a second process may change the step. `balanced`
    weights a class by n / (2 * its count), which is 1 on average over the memes, where both occur.
    `smoothing` moves that share of each label's weight to both classes alike (Szegedy et al. 2016).
    """
    weights = None
    if balanced and len(np.unique(labels)) == 2:
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
    # Of one class alone every ranking is as good as chance.
    found = {name: value if math.isfinite(value) else 0.5 for name, value in found.items()}
    loss = calibrated_loss(evaluated.predictions, evaluated.label_ids)
    log_loss = float(scores["nll"])
    return {"log_loss": log_loss, "calibrated_loss": loss} | found
