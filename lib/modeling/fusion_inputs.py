"""What a fusion head is trained on: encoders of its own, and logits that have not seen the labels.

An expert is far surer of the memes it was trained on than of others: a text expert reached an AUROC
of 0.98 on its own training memes and 0.79 on new ones (Step_5.md). A head that learns from such
features trusts the text too much; stacking needs what a model says of memes it has not seen
(Wolpert 1992, Stacked generalization). `settings.fusion_features` says how that is had:

    experts      the experts' own features of the memes they were trained on, as documented
    out_of_fold  logits of experts trained on the other folds; hidden features of the pre-trained
                 backbones, which saw no labels (those of fold models live in different spaces)
    held_out     the experts are trained without a part of train, which the head then learns from
"""

import hashlib
import json
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils.data import Subset
from tqdm import tqdm
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
)

from lib.artifacts import as_written, atomic_path, read_json
from lib.commands import again
from lib.config import Settings
from lib.data.altered_pictures import ALTERED_PICTURES
from lib.data.datasets import MemeShards, shard_paths
from lib.data.val_parts import selecting_rows
from lib.modeling import backbones
from lib.modeling.checkpoints import last_checkpoint
from lib.modeling.device import default_device
from lib.modeling.dual_encoder import DualText, DualVision
from lib.modeling.encoders import (
    EXPERTS,
    Encoders,
    Source,
    TextEncoder,
    VisionEncoder,
)
from lib.modeling.expert_inputs import classifier, expert_inputs, frozen, text_folding
from lib.modeling.expert_trainer import make_trainer, train_on
from lib.modeling.experts import expert_job
from lib.modeling.features import Features, encode_altered, encode_splits
from lib.modeling.folds import check_examples_left, folds_of_train, head_rows
from lib.modeling.forks import in_forks
from lib.modeling.model_files import is_whole
from lib.modeling.ngrams import Ngrams, out_of_fold_ngrams
from lib.modeling.stacking import NGRAMS, SPACE, VOTE, Neighbours
from lib.modeling.trained_on import splits_of, warn_of_other_shards


def load_encoders(settings: Settings) -> Encoders:
    """Both experts, and the encoders that fusion has of its own by these settings, in eval mode.

    Warns of experts that were trained on other shards than those packed now, or by other settings.
    Raises FileNotFoundError where an expert is missing, OSError where a backbone is, and ValueError
    if `dual_encoder` names something else, or if the experts learned from another part of train
    than `fusion_features` says.
    """
    learned_from = splits_of(settings.mode)
    packed = {split: shard_paths(settings.shards, split) for split in learned_from}
    warn_of_other_shards(settings.models, packed)
    _check_how_experts_were_trained(settings)
    own: dict[str, Source] = {}
    if settings.fusion_features == "out_of_fold":
        if not frozen("text_expert", settings):
            own["text_encoder"] = TextEncoder(*_pretrained("text_expert", settings))
        if not frozen("vision_expert", settings):
            own["vision_encoder"] = VisionEncoder(*_pretrained("vision_expert", settings))
        if settings.ngrams:
            own |= _fitted_ngrams(settings)
    if settings.dual_encoder is not None:
        own |= load_dual(settings.dual_encoder, text_folding(settings))
    return Encoders.load(settings.models, settings.bf16, own)


def _check_how_experts_were_trained(settings: Settings) -> None:
    """Compare how the experts were trained with what they would be trained by now.

    Experts that saw what a head holds out, or the other way round, are refused: it would learn from
    memes that they know. Of other differences a warning tells.
    """
    for name in EXPERTS:
        file = settings.model_folder(name) / "training.json"
        if not file.exists():
            continue
        was, now = read_json(file, again(4)), as_written(expert_job(name, settings))
        parts = [[job.get(k) for k in ("fusion_features", "folds", "seed")] for job in (was, now)]
        held_out = "held_out" in (parts[0][0], parts[1][0])
        if held_out and parts[0] != parts[1]:
            learned_from = (
                f"without a part of train (folds={parts[0][1]}, seed={parts[0][2]})"
                if parts[0][0]
                else "on all of train"
            )
            raise ValueError(
                f"{file.parent} was trained {learned_from}, and with fusion_features="
                f"{settings.fusion_features} it would learn from another part; train it again: "
                f"{again(4)}"
            )
        differ = [k for k in now if k in was and was[k] != now[k] and k not in ("data", "workers")]
        # Left out of a job where the backbone sees pictures of its own size.
        if was.get("vision_size") != now.get("vision_size"):
            differ = list(dict.fromkeys([*differ, "vision_size"]))
        if differ:
            told = ", ".join(f"{k} {was.get(k)} instead of {now.get(k)}" for k in differ)
            warnings.warn(
                f"{file.parent} was trained with {told}; to train it with these settings: "
                f"{again(4, overwrite='backbone' in differ)}",
                stacklevel=3,
            )


def _fitted_ngrams(settings: Settings) -> dict[str, Source]:
    memes = MemeShards(shard_paths(settings.shards, "train"), pictures=False)
    try:
        return {NGRAMS: Ngrams.fit(memes.texts, memes.labels, text_folding(settings))}
    except ValueError as error:
        warnings.warn(
            f"the texts of train give no n-grams to learn from ({error}); fusion does without",
            stacklevel=3,
        )
        return {}


def load_dual(name: str, folding: int = 0) -> dict[str, Source]:
    """Both towers of the dual encoder of that hub name or folder, in single precision.

    Its texts are folded by the version `folding`, 0: as they are.
    Raises OSError where it cannot be found, ValueError if it has no text and image tower.
    """
    check_dual(name)
    # Half precision, in which some lie on the hub, would round the features and slow a CPU down.
    model = backbones.load(AutoModel, name, dtype=torch.float32).eval()
    model.config.text_folding = folding
    return {
        "dual_text": DualText(model, backbones.load(AutoTokenizer, name)),
        "dual_vision": DualVision(model, backbones.load(AutoImageProcessor, name)),
    }


def check_dual(name: str) -> None:
    """Raise, without its weights, what `load_dual` would of that hub name or folder."""
    try:
        kind = MODEL_MAPPING[type(backbones.load(AutoConfig, name))]
    except (ValueError, KeyError):
        kind = None
    if not (hasattr(kind, "get_text_features") and hasattr(kind, "get_image_features")):
        raise ValueError(
            f"dual_encoder={name!r} is {f'a {kind.__name__}' if kind else 'no model known here'}, "
            "which does not encode both texts and pictures; set it to a CLIP or SigLIP model, a "
            "hub name such as openai/clip-vit-large-patch14-336 or its folder, or leave it out"
        )


def encode_for_fusion(settings: Settings, encoders: Encoders) -> tuple[Features, Features | None]:
    """The features that a head is trained on, and those it is chosen on (None in the pilot).

    The latter are of the half of val that calibrates nothing.
    """
    warn_of_cut_texts(settings, encoders)
    train, val = encode_splits(settings, encoders)
    if settings.altered_pictures:
        train = train.with_altered(**encode_altered(settings, encoders))
    if val is not None:
        memes = MemeShards(shard_paths(settings.shards, "val"), pictures=False)
        val = val.take(np.array(selecting_rows(memes.labels, memes.groups)))
    if settings.fusion_features == "experts":
        return train, val
    memes = MemeShards(shard_paths(settings.shards, "train"), pictures=False)
    groups = np.array(memes.groups)
    if settings.fusion_features == "out_of_fold":
        fold = folds_of_train(settings)
        logits = {
            f"{name.split('_')[0]}_logits": out_of_fold(name, settings, fold) for name in EXPERTS
        }
        if settings.altered_pictures:
            altered = out_of_fold("vision_expert", settings, fold, "altered")
            train = train.with_altered(vision_logits=altered)
        if NGRAMS in encoders.sources:
            folding = text_folding(settings)
            logits[NGRAMS] = out_of_fold_ngrams(memes.texts, memes.labels, fold, folding)
        train = train.with_arrays(**logits)
    else:
        rows = head_rows(settings)
        train, groups = train.take(rows), groups[rows]
    if not settings.retrieval:
        return train, val
    return with_votes(train, groups, val, settings.retrieval_memes)


def warn_of_cut_texts(settings: Settings, encoders: Encoders) -> None:
    """Warn if the dual encoder, which reads 77 or 64 tokens, cuts texts of train or val."""
    if "dual_text" not in encoders.sources:
        return
    source = encoders.sources["dual_text"]
    splits = ("train",) if settings.mode == "pilot" else ("train", "val")
    shards = [path for split in splits for path in shard_paths(settings.shards, split)]
    texts = MemeShards(shards, pictures=False).texts
    cut = source.too_long(texts)
    if cut:
        warnings.warn(
            f"{cut} of {len(texts)} texts are longer than the {source.length} tokens that "
            f"{settings.dual_encoder} reads and are cut",
            stacklevel=3,
        )


def with_votes(
    train: Features, groups: np.ndarray, val: Features | None = None, most: int = 20_000
) -> tuple[Features, Features | None]:
    """Train and val with the votes of the nearest of at most `most` train memes.

    Those on a train meme come from outside its group; `groups` (N,) names each one's.
    """
    text, vision = (train.arrays[name] for name in SPACE)
    neighbours = Neighbours(min(most, len(train)), text.shape[1], vision.shape[1])
    neighbours.to(default_device())
    neighbours.keep(text, vision, train.labels)
    if val is not None:
        val = val.with_arrays(**{VOTE: neighbours(*(val.arrays[name] for name in SPACE))})
    if train.altered:
        seen = neighbours(text, train.altered[SPACE[1]], groups)
        train = train.with_altered(**{VOTE: seen})
    return train.with_arrays(**{VOTE: neighbours(text, vision, groups)}), val


def out_of_fold(
    name: str, settings: Settings, fold: np.ndarray, of: Literal["logits", "altered"] = "logits"
) -> torch.Tensor:
    """Logits (N, 2) of the N train memes, each by an expert trained without its fold.

    `fold` (N,) is that of `folds_of_train`. With "altered", which needs that setting and the vision
    expert, they are of the memes with their pictures altered. Each fold's logits are kept in the
    feature cache, so that a killed run goes on with the folds that are missing. On a CPU of few
    cores the folds are trained side by side.
    """
    logits, files = torch.zeros(len(fold), 2), fold_files(name, settings)
    missing = [k for k, file in enumerate(files) if not is_whole(file)]
    keep = partial(_keep_fold, name, settings, fold)
    # A thread for each fold trains them sooner than all threads one fold after the other.
    beside = torch.get_num_threads() <= settings.workers
    jobs = [(k,) for k in missing]
    done = in_forks(keep, jobs, settings.workers) if beside else map(keep, missing)
    for _ in tqdm(done, f"folds of {name}", total=len(files), initial=len(files) - len(missing)):
        pass
    for k, file in enumerate(files):
        logits[fold == k] = load_file(file)[of]
        # Left by a kill just before they were removed.
        shutil.rmtree(_fold_checkpoints(name, settings, k), ignore_errors=True)
    return logits


def _fold_checkpoints(name: str, settings: Settings, k: int) -> Path:
    return settings.models / ".training" / f"{name}-fold-{k}"


def _keep_fold(name: str, settings: Settings, fold: np.ndarray, k: int) -> None:
    """Train on the others and keep the logits of the fold `k` where `fold_files` says."""
    job = _fold_job(name, settings) | {"fold": k}
    folder = _fold_checkpoints(name, settings, k)
    found = _fold_logits(name, settings, fold != k, np.flatnonzero(fold == k), job, folder)
    with atomic_path(fold_files(name, settings)[k]) as new:
        save_file(found, new)
    shutil.rmtree(folder)


def fold_files(name: str, settings: Settings) -> list[Path]:
    """Where `out_of_fold` keeps the logits of each fold's memes."""
    content = json.dumps(_fold_job(name, settings), sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    names = (f"out-of-fold-{name}-{key}-{k}.safetensors" for k in range(settings.folds))
    return [settings.features / file for file in names]


def _fold_job(name: str, settings: Settings) -> dict[str, Any]:
    job = expert_job(name, settings) | {"folds": settings.folds}
    if settings.altered_pictures and name == "vision_expert":
        job["altered_pictures"] = ALTERED_PICTURES
    return job


def _pretrained(name: str, settings: Settings) -> tuple:
    """The backbone as it was before any fine-tuning; its new last layer is not used."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return classifier(name, settings)


def _fold_logits(
    name: str,
    settings: Settings,
    others: np.ndarray,
    rows: np.ndarray,
    job: dict[str, Any],
    folder: Path,
) -> dict[str, torch.Tensor]:
    """Logits of the memes `rows` by an expert trained on the `others` (N,) of the train memes.

    Under "altered" those of the same memes with their pictures altered, where that is asked for.
    """
    transformers.set_seed(settings.seed)
    resume = last_checkpoint(folder, job)
    inputs = expert_inputs(name, settings, evaluate=settings.mode == "full")
    chosen = [place for place, row in enumerate(inputs.rows) if others[row]]
    check_examples_left(chosen, name, settings)
    trainer = make_trainer(name, settings, inputs, folder, chosen)
    train_on(trainer, resume)
    memes = {"logits": inputs.plain, "altered": inputs.altered}
    return {
        of: torch.from_numpy(trainer.predict(Subset(each, rows.tolist())).predictions).float()
        for of, each in memes.items()
        if each is not None
    }
