"""Train the emotion classifier on GoEmotions' train.tsv, or on generated sentences."""

import argparse
import math
import os
import shutil
from pathlib import Path

import emotion_cli
import numpy as np
import timm.optim
import torch
from sklearn.metrics import average_precision_score
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Sampler
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    set_seed,
)

from lib.artifacts import atomic_path, fingerprint, guard_overwrite, write_json
from lib.emotions.augment import LikeLengthsAnew, TrainingTexts
from lib.emotions.classifier import BERTEmotionClassifier
from lib.emotions.splits import load_split
from lib.figures.single_plots import training_curve
from lib.modeling.checkpoints import last_checkpoint
from lib.modeling.device import default_device, trains_in_bf16


class EmotionTrainer(Trainer):
    """Binary cross-entropy over the labels, and a learning rate that falls from head to input.

    Stops at the first loss that is not finite.
    """

    def __init__(self, *args, head_learning_rate: float, layer_decay: float, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.head_learning_rate = head_learning_rate
        self.layer_decay = layer_decay

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        logits = model(**inputs)
        loss = binary_cross_entropy_with_logits(logits, labels)
        if not torch.isfinite(loss):
            # Closes the bar, so that the message has a line of its own.
            self.callback_handler.on_train_end(self.args, self.state, self.control)
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.state.global_step}, epoch "
                f"{self.state.epoch or 0:.2f}; no model was written. Lower --learning-rate or "
                "--head-learning-rate and run again"
            )
        return (loss, {"logits": logits}) if return_outputs else loss

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        lengths = (train_dataset or self.train_dataset).lengths
        return LikeLengthsAnew(lengths, self.args.train_batch_size, self.args.seed)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups = parameter_groups(
                self.model,
                self.args.learning_rate,
                self.head_learning_rate,
                self.layer_decay,
                self.args.weight_decay,
            )
            self.optimizer = torch.optim.AdamW(groups, fused=True)
        return self.optimizer


def parameter_groups(
    model: BERTEmotionClassifier, rate: float, head_rate: float, decay: float, weight_decay: float
) -> list[dict]:
    """AdamW groups: the encoder's last layer learns at `rate`, each below at `decay` of it.

    Its embeddings count as one layer below the first; the head learns at `head_rate`. Vectors,
    biases and norms, are not decayed.
    """
    groups = timm.optim.param_groups_layer_decay(model, weight_decay, layer_decay=decay)
    top = max(group["lr_scale"] for group in groups)
    for group in groups:
        scale = group.pop("lr_scale")
        # timm counts the head as the topmost layer.
        group["lr"] = head_rate if scale == top else rate * scale / (top * decay)
    return groups


def start_at_prior(model: BERTEmotionClassifier, labels: np.ndarray) -> None:
    """Set the head's biases (L,) to the log-odds of the labels, so that they need no learning."""
    prior = (labels.sum(axis=0) + 0.5) / (len(labels) + 1)
    with torch.no_grad():
        model.head.bias.copy_(torch.from_numpy(np.log(prior / (1 - prior))))


def ranking(predictions: EvalPrediction) -> dict[str, float]:
    """Mean average precision over the labels that occur: how well logits rank, whatever the cut."""
    there = predictions.label_ids.any(axis=0)
    return {
        "macro_average_precision": average_precision_score(
            predictions.label_ids[:, there], predictions.predictions[:, there], average="macro"
        )
    }


def training_arguments(args: argparse.Namespace, n: int, folder: Path) -> TrainingArguments:
    """Translate the options for `n` texts; checkpoints go to `folder`, ten to a run."""
    device = default_device()
    steps = math.ceil(n / args.batch_size) * args.epochs
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=128,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        bf16=trains_in_bf16(None, device),
        use_cpu=device == "cpu",
        remove_unused_columns=False,
        label_names=["labels"],
        eval_strategy="epoch",
        save_steps=math.ceil(steps / 10),
        save_total_limit=1,
        logging_steps=math.ceil(steps / 20),
        dataloader_pin_memory=device != "cpu",
        accelerator_config={"non_blocking": device != "cpu"},
        report_to="none",
        seed=args.seed,
    )
    # Several GPUs in one process would each take a whole batch, which is another recipe.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def options() -> argparse.Namespace:
    made = emotion_cli.parser(
        "Train the emotion classifier. An interrupted run continues when started again with the "
        "same options."
    )
    emotion_cli.add_data_options(made)
    made.add_argument("--backbone", default="minilm", help="minilm, a folder, or a hub name")
    made.add_argument("--epochs", type=float, default=4)
    made.add_argument("--batch-size", type=int, default=64)
    made.add_argument("--learning-rate", type=float, default=2e-4, help="of the last layer")
    made.add_argument("--head-learning-rate", type=float, default=1e-3)
    made.add_argument("--layer-decay", type=float, default=0.85, help="of the rate, per layer down")
    made.add_argument("--weight-decay", type=float, default=0.01)
    made.add_argument(
        "--augment",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the texts, from 0 to 1, that every epoch words otherwise: words lost, "
        "exchanged, mistyped (default 0)",
    )
    made.add_argument(
        "--overwrite", action="store_true", help="replace a model that other data were trained on"
    )
    args = made.parse_args()
    if min(args.epochs, args.batch_size, args.learning_rate, args.head_learning_rate) <= 0:
        made.error("epochs, batch size and learning rates must be above 0")
    if not 0 <= args.augment <= 1:
        made.error("--augment is a share from 0 to 1")
    return args


def main() -> int:
    args = options()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "the emotion classifier is trained by one process; start it without torchrun"
        )
    set_seed(args.seed)
    train, tune = (load_split(args.data, split, args.seed) for split in ("train", "tune"))
    made_from = {
        "mode": "pilot" if args.data is None else "full",
        "data": train.source if args.data is None else fingerprint(args.data / "train.tsv"),
        "backbone": args.backbone,
    }
    guard_overwrite(args.model / "training.json", made_from, args.overwrite)
    emotion_cli.announce(args, train=train, watched=tune)

    model = BERTEmotionClassifier(args.backbone, train.names)
    start_at_prior(model, train.labels)
    work = args.model.with_name(f"{args.model.name}.training")
    skipped = ("model", "data", "overwrite")
    recipe = {k: v for k, v in vars(args).items() if k not in skipped} | made_from
    # Whose files may come to hold others under the same names.
    recipe["labels"] = train.names
    recipe["backbone_files"] = fingerprint(args.backbone) if Path(args.backbone).is_dir() else None
    resume = last_checkpoint(work, recipe)
    trainer = EmotionTrainer(
        model,
        training_arguments(args, len(train), work),
        data_collator=DataCollatorWithPadding(model.tokenizer),
        train_dataset=TrainingTexts(model.tokenizer, train, args.augment, args.seed),
        eval_dataset=TrainingTexts(model.tokenizer, tune, 0.0, args.seed),
        compute_metrics=ranking,
        head_learning_rate=args.head_learning_rate,
        layer_decay=args.layer_decay,
    )
    trainer.train(resume_from_checkpoint=resume)
    # All at once: a model without its marker would be judged by, and replaced with, anything.
    with atomic_path(args.model) as new:
        model.save(new)
        write_json(new / "training.json", made_from)
        emotion_cli.save_figure(
            new / "training.png", lambda ax: training_curve(ax, trainer.state.log_history)
        )
    shutil.rmtree(work)
    print(f"wrote {args.model}")
    return 0


if __name__ == "__main__":
    emotion_cli.run(main)
