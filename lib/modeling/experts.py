"""Fine-tune the text expert and the vision expert on `labels.abuse_hate`.

As a program it trains one expert, on several processes or machines under torchrun:
`torchrun --nproc-per-node 2 -m lib.modeling.experts text_expert --config configs/full.yaml`
"""

import argparse
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from accelerate import PartialState
from timm.utils.model import unfreeze_batch_norm_2d
from transformers import Trainer

from lib.artifacts import atomic_path, fingerprint, guard_overwrite, read_json, write_json
from lib.commands import again, handed_down, run_command
from lib.config import Settings
from lib.data.datasets import shard_paths
from lib.data.shard_index import shards_fingerprint
from lib.modeling import trainable_layers
from lib.modeling.checkpoints import last_checkpoint, same_job
from lib.modeling.device import default_device
from lib.modeling.encoders import EXPERTS
from lib.modeling.expert_inputs import ExpertInputs, expert_inputs, frozen, text_folding
from lib.modeling.expert_trainer import make_trainer, train_on
from lib.modeling.folds import check_examples_left, folds_of_train, head_rows
from lib.modeling.model_files import has_weights, save_processor


@dataclass(frozen=True)
class Expert:
    """A trained expert: where it lies, and its training log (a list of Trainer's log entries)."""

    folder: Path
    history: list[dict[str, float]]


def train_expert(name: str, settings: Settings) -> Expert:
    """Fine-tune "text_expert" or "vision_expert" on the packed shards and save it under `models/`.

    A full run evaluates on val after each epoch, keeps the best epoch by `settings.select_by`,
    stops early, takes up the last checkpoint of a killed run, and returns at once what an equal
    run finished, with `overwrite` too: that lets it replace the expert of another run.
    Raises FileNotFoundError where shards are missing, FileExistsError where a full run's expert
    from other data or backbone would be lost, ValueError where all examples are held out for
    fusion or train cannot be divided for it, FloatingPointError when the loss turns NaN.
    """
    transformers.set_seed(settings.seed)
    if settings.fusion_features == "out_of_fold":
        # Step 5 will divide train; too late, it would cost the experts.
        folds_of_train(settings)
    job = expert_job(name, settings)
    folder = settings.model_folder(name)
    finished = same_job(folder / "training.json", job) and has_weights(folder)
    checkpoints = settings.models / ".training" / name
    if settings.mode == "full" and finished:
        # Left by a kill just before they were removed.
        shutil.rmtree(checkpoints, ignore_errors=True)
        return Expert(folder, read_json(folder / "history.json", again(4)))
    origin = {key: job[key] for key in ("mode", "backbone", "data")}
    guard_overwrite(folder / "made_from.json", origin, settings.overwrite)
    with PartialState(cpu=default_device() == "cpu").main_process_first():
        resume = last_checkpoint(checkpoints, job)
    inputs = expert_inputs(name, settings, evaluate=settings.mode == "full")
    trainer = make_trainer(name, settings, inputs, checkpoints, _rows(name, settings, inputs))
    train_on(trainer, resume)
    # The last entry is of this call alone: a mean over the steps since a kill.
    entries = [entry for entry in trainer.state.log_history if "train_runtime" not in entry]
    history = [_epoch_log(entry) for entry in entries]
    if trainer.is_world_process_zero():
        _save(inputs, trainer, folder, origin, job, history)
    # Another process may still load its best epoch from them.
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        shutil.rmtree(checkpoints)
    return Expert(folder, history)


def _rows(name: str, settings: Settings, inputs: ExpertInputs) -> list[int] | None:
    """The examples an expert may learn from, None for all: what fusion holds out is not shown.

    Raises ValueError if nothing else is there.
    """
    if settings.fusion_features != "held_out":
        return None
    held_out = set(head_rows(settings).tolist())
    chosen = [place for place, row in enumerate(inputs.rows) if row not in held_out]
    check_examples_left(chosen, name, settings)
    return chosen


def expert_job(name: str, settings: Settings) -> dict[str, Any]:
    """All that decides the weights of the expert to be trained."""
    text = name == "text_expert"
    train = shard_paths(settings.shards, "train")
    val = shard_paths(settings.shards, "val") if settings.mode == "full" else []
    knobs: tuple[str, ...] = ("seed", "batch_size", "gradient_accumulation", "max_length")
    knobs += ("class_weights", "top_k", "lora_rank", "select_by", "label_smoothing", "text_markers")
    knobs += ("layer_decay",)
    if settings.fusion_features == "held_out":
        knobs += ("fusion_features", "folds")
    backbone = settings.text_model if text else settings.vision_model
    if not text and settings.vision_size is not None:
        knobs += ("vision_size",)
    if not text and not frozen(name, settings):
        # Each of the loader's workers flips pictures by random numbers of its own.
        knobs += ("workers",)
    return {
        "mode": settings.mode,
        "backbone": _without_place(backbone),
        # A folder of the user's may come to hold other weights under its old name.
        "backbone_files": fingerprint(backbone) if Path(backbone).is_dir() else None,
        "data": shards_fingerprint([*train, *val]),
        "epochs": settings.text_epochs if text else settings.vision_epochs,
        "learning_rate": settings.text_lr if text else settings.vision_lr,
        "tuning": settings.text_tuning if text else settings.vision_tuning,
        "patience": settings.patience,
        "text_folding": text_folding(settings) if text else 0,
        "bf16": settings.bf16,
    } | {knob: getattr(settings, knob) for knob in knobs}


def _without_place(backbone: str) -> str:
    """A folder's own name, which it keeps where the project is moved or copied."""
    folder = Path(backbone)
    return f"{folder.name} {fingerprint(folder)}" if folder.is_dir() else backbone


def _epoch_log(entry: Mapping[str, float]) -> dict[str, float]:
    """A log entry without its timings, which differ from run to run."""
    return {
        key: value
        for key, value in entry.items()
        if not key.endswith(("_runtime", "_per_second", "total_flos"))
    }


def _save(
    inputs: ExpertInputs,
    trainer: Trainer,
    folder: Path,
    origin: Mapping[str, Any],
    job: Mapping[str, Any],
    history: list[dict[str, float]],
) -> None:
    model = trainable_layers.merge(trainer.model if inputs.whole is inputs.model else inputs.whole)
    unfreeze_batch_norm_2d(model)
    with atomic_path(folder) as new:
        new.mkdir()
        model.save_pretrained(new)
        save_processor(inputs.processor, new)
        write_json(new / "history.json", history)
        write_json(new / "training.json", job)
        write_json(new / "made_from.json", origin)


def main() -> int:
    """Train one expert with the settings of a configuration file; 2 if it cannot."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("expert", choices=EXPERTS)
    parser.add_argument("--config", required=True, help="YAML file of settings")
    parser.add_argument("--root", help="folder of shards and models; default: the project's")
    options = parser.parse_args()
    root = {"root": options.root} if options.root else {}
    advised = run_command({"config": options.config, "root": options.root})
    try:
        with handed_down(advised):
            expert = train_expert(options.expert, Settings.from_file(options.config, **root))
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"saved {expert.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
