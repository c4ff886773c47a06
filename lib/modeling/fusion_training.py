"""Training a fusion head on cached features, and comparing the heads."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import nn
from tqdm import tqdm
from transformers import set_seed

from lib.artifacts import fingerprint
from lib.calibration import calibrated_loss, classification_metrics, prob_hate
from lib.config import Settings
from lib.modeling.compared_heads import ComparedHeads
from lib.modeling.device import default_device, moved
from lib.modeling.encoders import EXPERTS
from lib.modeling.features import Features
from lib.modeling.forks import in_forks
from lib.modeling.fusion import TrainedHead
from lib.modeling.heads import (
    HEADS,
    Ensemble,
    FusionConfig,
    FusionHead,
    build_head,
    check_head,
    head_class,
)
from lib.modeling.predictions import feature_logits
from lib.modeling.stacking import NGRAMS, SPACE, VOTE

# The text and the vision feature that a dual encoder gives.
DUAL = ("dual", "dual")

# The 95% quantile of chi-squared with one degree of freedom (Wilks 1938).
SIGNIFICANT = 3.841


def fusion_config(features: Features, settings: Settings, **choice: str) -> FusionConfig:
    """The configuration of a head for these features; `choice` overrides the settings' kind."""
    kind: dict[str, Any] = {
        "head": "concat" if settings.fusion_head == "auto" else settings.fusion_head,
        "text_feature": settings.text_feature,
        "vision_feature": settings.vision_feature,
    } | choice
    check_head(kind["head"], settings.token_heads)
    if head_class(kind["head"]).is_stack:
        # It reads scores alone: no encoder is to be run and saved for hidden features.
        kind |= {"text_feature": "logits", "vision_feature": "logits"}
    # Stacking pays where the head learns from logits of experts that have not seen the memes.
    unseen = settings.fusion_features != "experts"
    kind["stack"] = unseen or head_class(kind["head"]).is_stack
    kind["ngrams"] = NGRAMS in features.arrays
    # The few weights of scores alone hardly differ from seed to seed.
    kind["members"] = 1 if head_class(kind["head"]).is_stack else settings.fusion_members
    if VOTE in features.arrays:
        kind["voters"] = min(settings.retrieval_memes, len(features))
        widths = [features.arrays[name].shape[-1] for name in SPACE]
        kind["voters_text_dim"], kind["voters_vision_dim"] = widths
    sizes: dict[str, Any] = {"hidden": settings.fusion_hidden, "rank": settings.fusion_rank}
    draft = FusionConfig(text_dim=0, vision_dim=0, dropout=settings.fusion_dropout, **sizes, **kind)
    text, vision = (features.arrays[name].shape[-1] for name in draft.inputs[:2])
    experts = {name: fingerprint(settings.model_folder(name)) for name in EXPERTS}
    return draft.model_copy(
        update={
            "text_dim": text,
            "vision_dim": vision,
            "experts": experts,
            "bf16": settings.bf16,
        }
    )


def train_fusion(
    train: Features,
    config: FusionConfig,
    settings: Settings,
    val: Features | None = None,
    seed: int | None = None,
    bar: bool = True,
) -> TrainedHead:
    """Train a head on cached features by 2-class cross-entropy with Adam and an L2 penalty.

    Where `train` knows its memes with altered pictures, they are learned from too. With `val` the
    epoch that is best on it by `settings.select_by` is kept, without it the last.
    Of `config.members` heads each is trained so, from seeds that count up from `seed`; the log
    then holds means over them. A head that stacks scores is centred on `val` at the end,
    where that calls for it. `bar` shows the epochs as they pass.
    Raises FloatingPointError naming the epoch when the loss turns NaN.
    """
    seed = settings.seed if seed is None else seed
    one = config.model_copy(update={"members": 1})
    seeds = range(seed, seed + config.members)
    trained = [_train_head(train, one, settings, val, each, bar) for each in seeds]
    outcome = trained[0]
    if config.members > 1:
        logs = pd.concat([pd.DataFrame(each.history) for each in trained])
        history: Any = logs.groupby("epoch", as_index=False).mean().to_dict("records")
        outcome = TrainedHead(Ensemble(config, [each.head for each in trained]).eval(), history)
    if val is not None and config.stack:
        _centre(outcome.head, val)
    return outcome


@torch.no_grad()
def _centre(head: FusionHead, val: Features) -> None:
    """Shift the head's margins so that their zero is where val is as often hateful as not.

    The shift is b / a of the logistic regression a * margin + b (Platt 1999). The head has learned
    from the scores of fold models; those of the final experts may lie elsewhere, which a
    temperature cannot mend. It is made only where the likelihood-ratio test of b = 0 is significant
    at 5%: a shift that val does not call for costs more than it gains. The slope is left to the
    temperature: what calibrates is the other half of val.
    """
    logits = feature_logits(head, val)["mm_fusion"].double()
    margins, labels = (logits[:, 1] - logits[:, 0]).numpy()[:, None], val.labels.numpy()
    if len(np.unique(labels)) < 2:
        return
    found = LogisticRegression(C=np.inf).fit(margins, labels)
    unmoved = LogisticRegression(C=np.inf, fit_intercept=False).fit(margins, labels)
    losses = (log_loss(labels, m.predict_proba(margins), normalize=False) for m in (unmoved, found))
    slope, intercept = float(found.coef_[0, 0]), float(found.intercept_[0])
    if slope <= 0 or 2 * (next(losses) - next(losses)) < SIGNIFICANT:
        return
    for member in getattr(head, "members", [head]):
        member.stack.weights.bias += intercept / slope


def _train_head(
    train: Features,
    config: FusionConfig,
    settings: Settings,
    val: Features | None,
    seed: int,
    bar: bool,
) -> TrainedHead:
    set_seed(seed)
    head = build_head(config)
    learned = train.as_met_and_altered()
    inputs = [learned.arrays[name] for name in config.inputs]
    head.fit(learned.labels, *inputs)
    if head.neighbours is not None:
        text, vision = (train.arrays[name] for name in SPACE)
        head.neighbours.keep(text, vision, train.labels)
    head.to(default_device())
    optimiser = torch.optim.Adam(_parameter_groups(head, settings.fusion_l2), settings.fusion_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.fusion_epochs)
    order = torch.Generator().manual_seed(seed)
    history, best = [], None
    epochs = range(1, settings.fusion_epochs + 1)
    for epoch in tqdm(epochs, desc=f"fusion {config.head}", disable=not bar):
        entry = {"epoch": epoch} | _train_epoch(head, inputs, learned.labels, optimiser, order)
        schedule.step()
        if val is not None:
            entry |= {f"eval_{name}": value for name, value in head_scores(head, val).items()}
            goodness = goodness_of(entry, settings, prefix="eval_")
            if best is None or goodness > best[0]:
                best = (goodness, _copy(head.state_dict()))
        history.append(entry)
    if best is not None:
        head.load_state_dict(best[1], strict=False)
    return TrainedHead(head.eval(), history)


def _parameter_groups(head: FusionHead, penalty: float) -> list[dict[str, Any]]:
    """All parameters with an L2 penalty but the few weights of the stacked scores.

    Few memes, many features: the penalty sits in the loss (Adam), where it binds, and not beside
    the step (AdamW), where at this length of training it would not.
    """
    free: list[nn.Parameter] = [] if head.stack is None else list(head.stack.parameters())
    known = {id(parameter) for parameter in free}
    bound = [parameter for parameter in head.parameters() if id(parameter) not in known]
    groups = [(bound, penalty), (free, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


def goodness_of(scores: Mapping[Any, float], settings: Settings, prefix: str = "") -> float:
    """What `settings.select_by` makes of scores: the higher the better.

    Of one class alone there is no AUROC, and the calibrated loss decides.
    """
    found = scores[f"{prefix}{_chosen_by(settings)}"]
    if not math.isfinite(found):
        return -scores[f"{prefix}calibrated_loss"]
    return -found if settings.select_by in ("calibrated_loss", "log_loss") else found


def _chosen_by(settings: Settings) -> str:
    """The column of scores that `settings.select_by` means."""
    return "loss" if settings.select_by == "log_loss" else settings.select_by


def _train_epoch(
    head: FusionHead,
    inputs: Sequence[torch.Tensor],
    labels: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    order: torch.Generator,
) -> dict[str, float]:
    head.train()
    device = next(head.parameters()).device
    losses: list[float] = []
    hits = 0
    for rows in torch.randperm(len(labels), generator=order).split(64):
        logits = head(*(moved(array[rows], device) for array in inputs))
        truth = moved(labels[rows], device)
        loss = nn.functional.cross_entropy(logits, truth)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the fusion loss is {loss.item()} after {len(losses)} batches of an epoch; "
                "nothing was saved. Lower fusion_lr and run Step 5 again"
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item() * len(rows))
        hits += int((logits.argmax(1) == truth).sum())
    return {"loss": sum(losses) / len(labels), "accuracy": hits / len(labels)}


def head_scores(head: FusionHead, features: Features) -> dict[str, float]:
    """The head's loss, calibrated loss (nats), accuracy, macro-F1 and AUROC on encoded memes."""
    head.eval()
    return _scores(features.labels, feature_logits(head, features)["mm_fusion"])


def _copy(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All but the memes that vote, which training leaves alone and which may be many."""
    own = {n: tensor for n, tensor in state.items() if not n.startswith("neighbours.")}
    return {name: tensor.clone() for name, tensor in own.items()}


def compare_heads(train: Features, settings: Settings, val: Features | None = None) -> pd.DataFrame:
    """Train every candidate head over `fusion_seeds` seeds and score it on val (else on train).

    They are compared on memes as they are, altered pictures left out. One row a candidate: head,
    text_feature, vision_feature, the mean over the seeds of loss, calibrated loss, AUROC and
    macro-F1, the deviation of what `settings.select_by` names, and `scored_on`, "val, select half"
    or "train (in-sample)". On a CPU `settings.workers` heads are trained at a time. A head and seed
    once scored is not trained again for this: its scores stay in the feature cache.
    """
    train = replace(train, altered={})
    kept, choices = ComparedHeads(settings, train, val), candidates(train)
    one = [fusion_config(train, settings, **c).model_copy(update={"members": 1}) for c in choices]
    seeds = range(settings.seed, settings.seed + settings.fusion_seeds)
    jobs = [(config, seed) for config in one for seed in seeds]
    how = partial(_scores_of_head, train, settings, val)
    missing = [job for job in jobs if not kept.has(*job)]
    scored = in_forks(partial(_scored, kept, how), missing, settings.workers)
    for _ in tqdm(scored, "comparing heads", len(missing), unit=" heads"):
        pass
    rows = []
    for choice, config in zip(choices, one, strict=True):
        scores = pd.DataFrame([kept.scores(config, seed) for seed in seeds])
        means = scores[["loss", "calibrated_loss", "auroc", "macro_f1"]].mean().to_dict()
        rows.append(choice | means | {"std": scores[_chosen_by(settings)].std(ddof=0)})
    frame = pd.DataFrame(rows)
    frame["scored_on"] = "val, select half" if val is not None else "train (in-sample)"
    return frame


def _scored(kept: ComparedHeads, how: Callable[..., dict], config: FusionConfig, seed: int) -> None:
    kept.keep(config, seed, how(config, seed))


def _scores_of_head(
    train: Features, settings: Settings, val: Features | None, config: FusionConfig, seed: int
) -> dict[str, float]:
    trained = train_fusion(train, config, settings, val, seed, bar=False)
    return head_scores(trained.head, train if val is None else val)


def candidates(features: Features) -> list[dict[str, str]]:
    """The heads to compare and what each reads.

    Heads that read tokens are compared only where there are any; the others read the embeddings of
    a dual encoder too, where there is one.
    """
    readable = "text_tokens" in features.arrays
    dual = (DUAL,) if "text_dual" in features.arrays else ()
    return [
        {"head": name, "text_feature": text, "vision_feature": vision}
        for name, head in HEADS.items()
        if readable or not head.reads_tokens
        for text, vision in (*head.tries, *(() if head.reads_tokens or head.is_stack else dual))
    ]


def choose_head(comparison: pd.DataFrame, train: Features, settings: Settings) -> FusionConfig:
    """The head to train: the configured one, or with "auto" the best of `compare_heads`.

    The best is that of the best mean over the seeds of what `settings.select_by` names.
    """
    if settings.fusion_head != "auto":
        return fusion_config(train, settings)
    goodness = [goodness_of(row, settings) for row in comparison.to_dict("records")]
    best = comparison.iloc[int(np.argmax(goodness))]
    return fusion_config(train, settings, **best[["head", "text_feature", "vision_feature"]])


def compare_models(head: FusionHead, features: Features) -> pd.DataFrame:
    """The `head_scores` of the three models on encoded memes, a row a model."""
    rows = {
        model: _scores(features.labels, logits)
        for model, logits in feature_logits(head, features).items()
    }
    return pd.DataFrame(rows).T


def _scores(labels: torch.Tensor, logits: torch.Tensor) -> dict[str, float]:
    prob = prob_hate(logits)
    with warnings.catch_warnings():
        # One class only has no AUROC; it is then NaN.
        warnings.filterwarnings("ignore", message="labels holds class")
        scores = classification_metrics(prob, labels)
    found = {name: scores.get(name, math.nan) for name in ("accuracy", "macro_f1", "auroc")}
    losses = {"loss": scores["nll"], "calibrated_loss": calibrated_loss(logits, labels)}
    return losses | found
