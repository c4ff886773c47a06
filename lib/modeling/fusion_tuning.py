"""Joint tuning: a trained head and the top of its encoders learn together from texts and pictures.

The encoders are copies. The experts, and with them their own logits, stay as Step 4 left them.
"""

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.utils.model import unfreeze_batch_norm_2d
from torch import nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup, set_seed

from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.modeling import trainable_layers
from lib.modeling.encoders import Encoders, Source, TextEncoder, VisionEncoder, head_name
from lib.modeling.features import Batch, Features, collate, encode_shards
from lib.modeling.fusion import TrainedHead
from lib.modeling.fusion_inputs import encode_for_fusion
from lib.modeling.fusion_training import goodness_of, head_scores
from lib.modeling.heads import FusionConfig, FusionHead
from lib.modeling.own_encoders import FOLDERS, GIVES
from lib.modeling.stacking import SPACE, VOTE
from lib.modeling.tuning_checkpoints import keep_epoch, last_epoch, tuning_file

# Whose copy an encoder of fusion's own is where there is none yet.
EXPERT_OF = {"text_encoder": "text_expert", "vision_encoder": "vision_expert"}


class Tuned(NamedTuple):
    """A head, its encoders, and train and val as these see them."""

    trained: TrainedHead
    encoders: Encoders
    train: Features
    val: Features | None


def tune_fusion(
    trained: TrainedHead,
    train: Features,
    val: Features | None,
    settings: Settings,
    encoders: Encoders,
) -> Tuned:
    """Train a head together with the top of the encoders it reads, by `settings.fusion_tuning`.

    The encoders that come back are `encoders` with tuned copies in the place of those the head
    reads. Logits and votes that it learns from are those of `train`, which have not seen the
    labels. With `val` the outcome is kept only where it is better on it by `settings.select_by`;
    else what was given comes back.
    Raises ValueError if an encoder has fewer layers than `fusion_top_k` or none to adapt, and
    FloatingPointError naming the memes when the loss turns NaN.
    """
    given = Tuned(trained, encoders, train, val)
    if settings.fusion_tuning == "none":
        return given
    copies = {} if trained.head.is_stack else _copies(encoders, trained.head.config)
    if not copies:
        warnings.warn(
            f"the head {trained.head.config.head} reads no encoder's features but logits alone, "
            "so fusion_tuning has nothing to tune",
            stacklevel=2,
        )
        return given
    set_seed(settings.seed)
    joint = _Joint.of(trained.head, copies, encoders)
    adapted = [_prepare(source, settings) for source in copies.values()]
    history, better = _learn(joint, trained, train, val, settings)
    if not better:
        return given
    for tower in adapted:
        trainable_layers.merge(tower)
    head, encoders = _outcome(joint, trained.head, encoders)
    history = trained.history + history
    return Tuned(TrainedHead(head, history), encoders, *encode_for_fusion(settings, encoders))


@dataclass
class _Joint:
    """What learns: a copy of the head, and copies of the encoders it reads."""

    head: FusionHead
    encoders: Encoders

    @classmethod
    def of(cls, head: FusionHead, copies: Mapping[str, Source], encoders: Encoders) -> "_Joint":
        tuned = Encoders(copies, encoders.bf16).to(encoders.device).eval()
        return cls(copy.deepcopy(head).to(encoders.device), tuned)

    def parameters(self) -> list[nn.Parameter]:
        """All that learns, the head's first."""
        return [*self.head.parameters(), *self._of_encoders()]

    def state(self) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        """A copy of the head and of what learns in the encoders, for `restore`."""
        head = {name: tensor.clone() for name, tensor in self.head.state_dict().items()}
        return head, [parameter.detach().clone() for parameter in self._of_encoders()]

    @torch.no_grad()
    def restore(self, state: tuple[dict[str, torch.Tensor], list[torch.Tensor]]) -> None:
        """Take back what `state` gave."""
        self.head.load_state_dict(state[0])
        for parameter, kept in zip(self._of_encoders(), state[1], strict=True):
            parameter.copy_(kept)

    def _of_encoders(self) -> list[nn.Parameter]:
        return [each for each in self.encoders.parameters() if each.requires_grad]


def _copies(encoders: Encoders, config: FusionConfig) -> dict[str, Source]:
    """Copies of the encoders whose hidden features the head reads; logits are left to the experts.

    Both towers of a dual encoder share one copy of it.
    """
    read = set(config.inputs[:2])
    names = [name for name, given in GIVES.items() if read & set(given)]
    known = encoders.sources
    found = {name: known[name if name in known else EXPERT_OF[name]] for name in names}
    copies = copy.deepcopy(found)
    for source in copies.values():
        unfreeze_batch_norm_2d(source.model)
        source.requires_grad_(False)
    return copies


def _prepare(source: Source, settings: Settings) -> nn.Module:
    """Make learnable what `settings.fusion_tuning` says of an encoder, its classifier left out."""
    classifies = isinstance(source, TextEncoder | VisionEncoder)
    last = head_name(source.model) if classifies else None
    how: tuple[Any, int, int] = (settings.fusion_tuning, settings.fusion_top_k, settings.lora_rank)
    adapted = trainable_layers.prepare(source.tower(), last, *how)
    if last is not None:
        source.model.get_submodule(last).requires_grad_(False)
    return adapted


def _learn(
    joint: _Joint,
    trained: TrainedHead,
    train: Features,
    val: Features | None,
    settings: Settings,
) -> tuple[list[dict[str, float]], bool]:
    """Train, end with the best epoch, and say whether that is better than where it began.

    Each epoch is kept in the feature cache, so that a killed tuning goes on, and a finished one is
    not made again.
    """
    loader = _loader(joint, train, settings)
    epochs = settings.fusion_tuning_epochs
    optimiser = torch.optim.AdamW(joint.parameters(), settings.fusion_tuning_lr, weight_decay=0.01)
    steps = epochs * len(loader)
    schedule = get_linear_schedule_with_warmup(optimiser, steps // 10, steps)
    file = tuning_file(settings, trained.head.config, train, val)
    at = last_epoch(file, loader.generator)
    if at is None:
        began = -math.inf if val is None else goodness_of(head_scores(trained.head, val), settings)
        at = {"history": [], "best": began, "kept": None}
    else:
        joint.restore(at["now"])
        optimiser.load_state_dict(at["optimiser"])
        schedule.load_state_dict(at["schedule"])
    done = len(at["history"])
    with tqdm(desc="tuning fusion", total=steps, initial=done * len(loader)) as bar:
        for epoch in range(done + 1, epochs + 1):
            entry: dict[str, float] = {"epoch": len(trained.history) + epoch}
            entry |= _epoch(joint, train, loader, optimiser, schedule, bar)
            _keep_neighbours(joint, train, settings)
            if val is not None:
                scores = head_scores(joint.head, _seen(joint, val, "val", settings))
                entry |= {f"eval_{name}": float(value) for name, value in scores.items()}
                if goodness_of(scores, settings) > at["best"]:
                    at |= {"best": float(goodness_of(scores, settings)), "kept": joint.state()}
            at["history"].append(entry)
            at |= {"now": joint.state(), "optimiser": optimiser.state_dict()}
            keep_epoch(file, at | {"schedule": schedule.state_dict()}, loader.generator)
    if at["kept"] is not None:
        joint.restore(at["kept"])
    joint.head.eval()
    return at["history"], val is None or at["kept"] is not None


def _loader(joint: _Joint, train: Features, settings: Settings) -> DataLoader:
    """The packed memes of `train` in random order, prepared for the encoders that learn."""
    sources = joint.encoders.sources
    pictures = any(source.modality == "vision" for source in sources.values())
    memes = MemeShards(shard_paths(settings.shards, "train"), pictures=pictures)
    place = {meme: row for row, meme in enumerate(memes.ids)}
    return DataLoader(
        Subset(memes, [place[meme] for meme in train.ids]),
        batch_size=settings.batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(settings.seed),
        collate_fn=partial(collate, {n: (s.modality, s.prepare) for n, s in sources.items()}),
        num_workers=settings.workers if pictures else 0,
        pin_memory=joint.encoders.device.type == "cuda",
    )


def _epoch(
    joint: _Joint, train: Features, loader: DataLoader, optimiser: Any, schedule: Any, bar: tqdm
) -> dict[str, float]:
    # The encoders stay in eval mode, in which the head has come to know their features.
    joint.head.train()
    row_of = {meme: row for row, meme in enumerate(train.ids)}
    total, hits = 0.0, 0
    for batch in loader:
        rows = torch.tensor([row_of[meme] for meme in batch.ids])
        labels = train.labels[rows].to(joint.encoders.device)
        logits = _logits(joint, train, rows, batch)
        loss = nn.functional.cross_entropy(logits, labels)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} on the memes {', '.join(batch.ids)} while fusion is "
                "tuned; nothing was saved. Lower fusion_tuning_lr or set bf16=false, and run Step "
                "5 again"
            )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(joint.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        total += loss.item() * len(rows)
        hits += int((logits.argmax(1) == labels).sum())
        bar.update()
    return {"loss": total / len(train), "accuracy": hits / len(train)}


def _logits(joint: _Joint, train: Features, rows: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Logits (B, 2) from what learns, and from what `train` holds of the rest."""
    head, device = joint.head, joint.encoders.device
    seen = joint.encoders.encode_prepared(batch.prepared, head.reads_tokens)
    arrays = joint.encoders.named(seen)
    names = head.config.inputs
    others = {n: train.arrays[n][rows].to(device) for n in names if n not in arrays}
    return head(*((others | arrays)[name] for name in names))


def _seen(joint: _Joint, features: Features, split: str, settings: Settings) -> Features:
    """The memes of a split as the encoders now see them."""
    shards = shard_paths(settings.shards, split)
    tokens = joint.head.reads_tokens
    found = encode_shards(shards, joint.encoders, tokens=tokens, workers=settings.workers)
    row_of = {meme: row for row, meme in enumerate(found.ids)}
    seen = found.take(np.array([row_of[meme] for meme in features.ids]))
    seen = features.with_arrays(**seen.arrays)
    # The head's neighbours, who may have moved, vote anew.
    return replace(seen, arrays={k: v for k, v in seen.arrays.items() if k != VOTE})


def _keep_neighbours(joint: _Joint, train: Features, settings: Settings) -> None:
    """Let the training memes that vote stand where the encoders now see them."""
    given = {name for source in joint.encoders.sources for name in GIVES[source]}
    if joint.head.neighbours is None or not given.intersection(SPACE):
        return
    shards = shard_paths(settings.shards, "train")
    found = encode_shards(shards, joint.encoders, workers=settings.workers)
    row_of = {meme: row for row, meme in enumerate(found.ids)}
    rows = np.array([row_of[meme] for meme in train.ids])
    arrays = train.arrays | found.take(rows).arrays
    text, vision = (arrays[name] for name in SPACE)
    joint.head.neighbours.keep(text, vision, train.labels)


def _outcome(joint: _Joint, old: FusionHead, encoders: Encoders) -> tuple[FusionHead, Encoders]:
    """The tuned head where the old one lies, and the encoders with the tuned ones among them."""
    copies = dict(joint.encoders.sources.items())
    head = joint.head.to(next(old.parameters()).device)
    tuned = tuple(sorted({FOLDERS[name] for name in copies}))
    head.config = head.config.model_copy(update={"tuned": tuned})
    found = Encoders(dict(encoders.sources.items()) | copies, encoders.bf16)
    return head, found.to(encoders.device).eval().requires_grad_(False)
