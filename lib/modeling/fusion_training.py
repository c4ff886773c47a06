"""Training a fusion head on cached features, and comparing the heads."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm
from transformers import set_seed

from lib.artifacts import fingerprint
from lib.calibration import decision_metrics
from lib.config import Settings
from lib.modeling.encoders import EXPERTS
from lib.modeling.features import Features
from lib.modeling.fusion import TrainedHead
from lib.modeling.heads import HEADS, FusionConfig, FusionHead, build_head
from lib.modeling.predictions import feature_logits


def fusion_config(features: Features, settings: Settings, **choice: str) -> FusionConfig:
    """The configuration of a head for these features; `choice` overrides the settings' kind."""
    kind = {
        "head": "concat" if settings.fusion_head == "auto" else settings.fusion_head,
        "text_feature": settings.text_feature,
        "vision_feature": settings.vision_feature,
    } | choice
    draft = FusionConfig(text_dim=0, vision_dim=0, hidden=settings.fusion_hidden, **kind)
    text, vision = (features.arrays[name].shape[-1] for name in draft.inputs[:2])
    experts = {name: fingerprint(settings.model_folder(name)) for name in EXPERTS}
    return draft.model_copy(
        update={
            "text_dim": text,
            "vision_dim": vision,
            "experts": experts,
            "bf16": settings.autocast,
        }
    )


def train_fusion(
    train: Features,
    config: FusionConfig,
    settings: Settings,
    val: Features | None = None,
    seed: int | None = None,
) -> TrainedHead:
    """Train a head on cached features by 2-class cross-entropy with Adam and an L2 penalty.

    With `val` the epoch of best macro-F1 on it is kept, without it the last.
    Raises FloatingPointError naming the epoch when the loss turns NaN.
    """
    seed = settings.seed if seed is None else seed
    set_seed(seed)
    head = build_head(config)
    inputs = [train.arrays[name] for name in config.inputs]
    head.text_scale.fit(inputs[0], inputs[2] if len(inputs) > 2 else None)
    head.vision_scale.fit(inputs[1])
    # Few memes, many features: the penalty sits in the loss (Adam), where it binds, and not beside
    # the step (AdamW), where at this length of training it would not.
    optimiser = torch.optim.Adam(
        head.parameters(), lr=settings.fusion_lr, weight_decay=settings.fusion_l2
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.fusion_epochs)
    order = torch.Generator().manual_seed(seed)
    history, best = [], None
    for epoch in tqdm(range(1, settings.fusion_epochs + 1), desc=f"fusion {config.head}"):
        entry = {"epoch": epoch} | _train_epoch(head, inputs, train.labels, optimiser, order)
        schedule.step()
        if val is not None:
            entry |= _evaluate(head, val)
            if best is None or entry["eval_macro_f1"] > best[0]:
                best = (entry["eval_macro_f1"], _copy(head.state_dict()))
        history.append(entry)
    if best is not None:
        head.load_state_dict(best[1])
    return TrainedHead(head.eval(), history, best[0] if best else None)


def _train_epoch(
    head: FusionHead,
    inputs: Sequence[torch.Tensor],
    labels: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    order: torch.Generator,
) -> dict[str, float]:
    head.train()
    losses, hits = [], 0
    for rows in torch.randperm(len(labels), generator=order).split(64):
        logits = head(*(tensor[rows] for tensor in inputs))
        loss = nn.functional.cross_entropy(logits, labels[rows])
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the fusion loss is {loss.item()} after {len(losses)} batches of an epoch; "
                "nothing was saved. Lower fusion_lr and run Step 5 again"
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item() * len(rows))
        hits += int((logits.argmax(1) == labels[rows]).sum())
    return {"loss": sum(losses) / len(labels), "accuracy": hits / len(labels)}


@torch.inference_mode()
def _evaluate(head: FusionHead, features: Features) -> dict[str, float]:
    head.eval()
    logits = feature_logits(head, features)["mm_fusion"]
    loss = nn.functional.cross_entropy(logits, features.labels)
    scores = {f"eval_{name}": value for name, value in _scores(features.labels, logits).items()}
    return {"eval_loss": loss.item()} | scores


def _copy(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def compare_heads(train: Features, settings: Settings, val: Features | None = None) -> pd.DataFrame:
    """Train every candidate head over `fusion_seeds` seeds and score it on val (else on train).

    One row a candidate: head, text_feature, vision_feature, mean and deviation of macro-F1 over
    the seeds, and `scored_on`, "val" or "train (in-sample)".
    """
    scored = train if val is None else val
    rows = []
    for choice in candidates(train):
        config = fusion_config(train, settings, **choice)
        trained = [
            train_fusion(train, config, settings, val, seed=settings.seed + offset)
            for offset in range(settings.fusion_seeds)
        ]
        scores = [_evaluate(each.head, scored)["eval_macro_f1"] for each in trained]
        rows.append(choice | {"macro_f1": np.mean(scores), "std": np.std(scores)})
    frame = pd.DataFrame(rows)
    frame["scored_on"] = "val" if val is not None else "train (in-sample)"
    return frame


def candidates(features: Features) -> list[dict[str, str]]:
    """The heads to compare and what each reads; those that read tokens only where there are any."""
    readable = "text_tokens" in features.arrays
    return [
        {"head": name, "text_feature": text, "vision_feature": vision}
        for name, head in HEADS.items()
        if readable or not head.reads_tokens
        for text, vision in head.tries
    ]


def choose_head(comparison: pd.DataFrame, train: Features, settings: Settings) -> FusionConfig:
    """The head to train: the configured one, or with "auto" the best of `compare_heads` on val."""
    if settings.fusion_head != "auto":
        return fusion_config(train, settings)
    best = comparison.loc[comparison["macro_f1"].idxmax()]
    return fusion_config(train, settings, **best[["head", "text_feature", "vision_feature"]])


def compare_models(head: FusionHead, features: Features) -> pd.DataFrame:
    """Accuracy and macro-F1 of the three models on encoded memes, a row a model."""
    rows = {
        model: _scores(features.labels, logits)
        for model, logits in feature_logits(head, features).items()
    }
    return pd.DataFrame(rows).T


def _scores(labels: torch.Tensor, logits: torch.Tensor) -> dict[str, float]:
    scores = decision_metrics(logits.argmax(1), labels)
    return {name: scores[name] for name in ("accuracy", "macro_f1")}
