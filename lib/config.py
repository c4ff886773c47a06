"""One run's settings: checked once, frozen, taken from a notebook, a file or the last run."""

import importlib.util
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lib import commands
from lib.layout import ROOT, Layout
from lib.settings_files import MEND, in_project, read_parameters, read_saved, write_saved

__all__ = ["MODELS", "PILOT_SIZE", "PRESETS", "ROOT", "SHARD_SIZE", "Settings"]

MODELS = ("text_expert", "vision_expert", "mm_fusion")

PILOT_SIZE = 50
SHARD_SIZE = 256

# What a run's saved settings leave out: where it stands, and a permission given once.
UNSAVED = {"mode", "root", "overwrite"}

# What differs between the modes; everything else has one default.
PRESETS = {
    "pilot": {
        "n_memes": PILOT_SIZE,
        "text_model": "minilm",
        "vision_model": "efficientnet_lite0",
        "text_epochs": 1,
        "vision_epochs": 1,
        "fusion_features": "experts",
        "fusion_head": "concat",
        "fusion_members": 1,
        "fusion_seeds": 1,
    },
    "full": {
        "n_memes": 3000,
        "text_model": "microsoft/mdeberta-v3-base",
        "vision_model": "google/siglip-base-patch16-384",
        "text_epochs": 5,
        "vision_epochs": 5,
        "fusion_features": "out_of_fold",
        "fusion_head": "auto",
        "fusion_members": 5,
        "fusion_seeds": 5,
    },
}


class Settings(Layout):
    """What a run needs to know; an unknown key or a mistyped value is an error.

    `root` holds everything the run reads and writes; its default is the environment variable
    MEMES_ROOT, else the project's own folder. `data` is a folder with the user's own `Datasets/`
    and `Step_2/`, or the folder of a public data set named by `dataset`; without it Step 3 looks
    in `root`, then generates `n_memes` memes. Defaults that depend on `mode` stand in `PRESETS`.
    Raises pydantic's ValidationError, which is a ValueError.
    """

    overwrite: bool = False
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=2, ge=0)

    # Step 3
    data: Path | None = None
    dataset: str = "auto"
    n_memes: int = Field(ge=8)
    captions: bool = False
    # Memes a shard at most: more make fewer and larger files.
    shard_size: int = Field(default=SHARD_SIZE, ge=1)

    # Step 4
    text_model: str
    vision_model: str
    text_epochs: int = Field(ge=1)
    vision_epochs: int = Field(ge=1)
    text_lr: float = Field(default=5e-5, gt=0)
    vision_lr: float = Field(default=1e-4, gt=0)
    batch_size: int = Field(default=16, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = False
    max_length: int = Field(default=128, ge=8)
    # Pixels a side that a timm backbone of pictures is shown, of the 384 packed; None: its own.
    vision_size: int | None = Field(default=None, ge=32, le=384)
    # Whether the text models are shown `[OCR]`, `[CAP]` and so on: 21 of a text's 47 tokens.
    text_markers: Literal["keep", "drop"] = "keep"
    # Whether disguised words are undone where a text is tokenised: `lib.data.folding`.
    text_folding: bool = True
    class_weights: bool = False
    patience: int = Field(default=2, ge=1)
    # What chooses the epoch of an expert and the head of fusion, on val. `calibrated_loss` is the
    # log-loss that the best temperature leaves: how sure a model is gets mended in Step 7.
    select_by: Literal["calibrated_loss", "log_loss", "auroc", "macro_f1"] = "calibrated_loss"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    # What a block's learning rate is of that of the block above it.
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    text_tuning: Literal["full", "top_k", "lora"] = "full"
    vision_tuning: Literal["full", "top_k", "lora"] = "full"
    top_k: int = Field(default=2, ge=0)
    lora_rank: int = Field(default=8, ge=1)
    bf16: bool | None = None
    # Who is shown the curves of a training beside this project's own figures.
    report_to: Literal["none", "tensorboard", "mlflow", "wandb"] = "none"

    # Step 5
    fusion_features: Literal["experts", "out_of_fold", "held_out"]
    folds: int = Field(default=4, ge=2)
    # Whether a linear model of words and letters adds its score there, with "out_of_fold".
    ngrams: bool = True
    # Whether the nearest training memes vote on a meme, where the head learns from unseen ones.
    retrieval: bool = True
    # How many of them at most are kept in `fusion_model.pt` (2 kB each with the packaged models).
    retrieval_memes: int = Field(default=20_000, ge=1)
    # A CLIP or SigLIP model beside the experts: a hub name or a folder.
    dual_encoder: str | None = None
    # "auto" or a name of `lib.modeling.heads`
    fusion_head: str
    text_feature: Literal["cls", "mean", "logits", "dual"] = "cls"
    vision_feature: Literal["pooled", "logits", "dual"] = "logits"
    # For heads that attend to tokens and patches the cache holds N * (L * t + P * w) half floats.
    token_heads: bool = True
    # Whether the head learns from each train meme twice, once with its picture noisy, blurred,
    # coarse or badly compressed: Step_7.md says what it is worth.
    altered_pictures: bool = False
    fusion_hidden: int = Field(default=256, ge=1)
    # The width that heads project text and picture to; four heads of attention share it.
    fusion_rank: int = Field(default=64, ge=4, multiple_of=4)
    fusion_dropout: float = Field(default=0.1, ge=0, lt=1)
    fusion_epochs: int = Field(default=20, ge=1)
    fusion_lr: float = Field(default=2e-3, gt=0)
    fusion_l2: float = Field(default=0.02, ge=0)
    # How many heads of the chosen kind are trained, a seed each, and their logits averaged.
    fusion_members: int = Field(ge=1)
    # Over how many seeds each kind of head is compared.
    fusion_seeds: int = Field(ge=1)
    # What learns together with the head afterwards: nothing, the last layers, or LoRA adapters.
    fusion_tuning: Literal["none", "top_k", "lora"] = "none"
    # How many layers that is; not Step 4's `top_k`, which is 0 where experts stay frozen.
    fusion_top_k: int = Field(default=2, ge=1)
    fusion_tuning_epochs: int = Field(default=1, ge=1)
    fusion_tuning_lr: float = Field(default=1e-5, gt=0)

    # Step 7
    # What the threshold maximises, in the terms of `lib.calibration.best_threshold`.
    threshold_objective: Literal[
        "f1",
        "macro_f1",
        "balanced_accuracy",
        "cost",
        "precision_at_recall",
        "recall_at_precision",
    ] = "f1"
    # For "cost": of a false positive and of a false negative.
    threshold_costs: tuple[NonNegativeFloat, NonNegativeFloat] | None = None
    # The least recall for "precision_at_recall", the least precision for "recall_at_precision".
    threshold_floor: float | None = Field(default=None, ge=0, le=1)
    # Calibrated figures of fusion to be met on val and test; None: nothing is demanded.
    target_macro_f1: float | None = Field(default=None, ge=0, le=1)
    target_ece: float | None = Field(default=None, ge=0, le=1)
    # Memes of the reported split that are perturbed, drawn with labels in proportion.
    robustness_memes: int = Field(default=300, ge=1)
    # Packed fields, labels or columns of the error table that errors are sliced by too.
    slice_by: list[str] = Field(default_factory=list)
    # The share of hate where the models will be used; None: that of the data.
    prevalence: float | None = Field(default=None, gt=0, lt=1)
    # What is promised of blocking and allowing: two rates, the least cost, or a recall.
    policy: Literal["targets", "costs", "recall_floor"] = "targets"
    # The least precision of what is blocked, the greatest share of hateful memes allowed.
    policy_precision: float = Field(default=0.9, gt=0, lt=1)
    policy_miss: float = Field(default=0.1, gt=0, lt=1)
    # For "costs": of a wrong block, a wrong allow and a review, and the greatest share reviewed.
    policy_costs: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] | None = None
    policy_review_budget: float = Field(default=0.2, ge=0, le=1)
    # For "recall_floor": the least share of hateful memes that are not allowed.
    policy_recall: float | None = Field(default=None, gt=0, lt=1)
    # At which confidence each side is certified.
    policy_confidence: float = Field(default=0.9, gt=0, lt=1)

    @field_validator("data")
    @classmethod
    def _absolute(cls, folder: Path | None) -> Path | None:
        return folder and folder.expanduser().resolve()

    @field_validator("report_to")
    @classmethod
    def _installed(cls, tracker: str) -> str:
        if tracker != "none" and importlib.util.find_spec(tracker) is None:
            raise ValueError(f"{tracker} is not installed; do so with: pip install {tracker}")
        return tracker

    @field_validator("text_feature", "vision_feature")
    @classmethod
    def _given_by_a_dual_encoder(cls, feature: str, info: ValidationInfo) -> str:
        if feature == "dual" and info.data.get("dual_encoder") is None:
            raise ValueError("needs a dual_encoder, such as openai/clip-vit-large-patch14-336")
        return feature

    @model_validator(mode="after")
    def _objective_has_its_number(self) -> Self:
        wanted = {"cost": "threshold_costs"} | dict.fromkeys(
            ("precision_at_recall", "recall_at_precision"), "threshold_floor"
        )
        name = wanted.get(self.threshold_objective)
        if name is not None and getattr(self, name) is None:
            raise ValueError(f"threshold_objective {self.threshold_objective} needs {name}")
        return self

    @model_validator(mode="after")
    def _policy_has_its_number(self) -> Self:
        name = {"costs": "policy_costs", "recall_floor": "policy_recall"}.get(self.policy)
        if name is not None and getattr(self, name) is None:
            raise ValueError(f"policy {self.policy} needs {name}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in given.items() if value is not None}
        # Of a mode that there is not, nothing but the mode is to be complained of.
        return PRESETS["full" if given.get("mode") == "full" else "pilot"] | given

    @classmethod
    def from_notebook(cls, namespace: MutableMapping[str, Any]) -> Self:
        """Build the settings from what a notebook's parameters cell, or papermill, has assigned.

        Call it in the cell after the parameters as `Settings.from_notebook(globals())`. Every
        public name assigned by then counts as a setting, so that a misspelt one is an error
        instead of being ignored; a later call in the same kernel counts the same names. What is
        None or not assigned is as in the last run of this mode and root, and what is assigned is
        saved for the steps to come. Relative folders are those of the project.
        Raises ValueError naming each bad setting and the known ones.
        """
        if "_parameter_names" not in namespace:
            namespace["_parameter_names"] = {
                name
                for name, value in namespace.items()
                if not name.startswith("_")
                and name not in ("In", "Out")
                and (value is None or isinstance(value, str | int | float | list | dict))
            }
        names = namespace["_parameter_names"] | (namespace.keys() & cls.model_fields)
        given = {name: namespace[name] for name in sorted(names) if namespace[name] is not None}
        # `lib.run` gives a notebook all its settings, and saves them itself.
        build = cls.checked if commands.GIVEN in os.environ else cls._continued
        return build(in_project(given), "parameters cell")

    @classmethod
    def _continued(cls, given: dict[str, Any], origin: str) -> Self:
        place = cls.checked({k: given[k] for k in ("mode", "root") if k in given}, origin)
        place.guide()
        saved, default = place.saved(), place.model_dump(mode="json")
        settings = cls.checked(saved | given, origin)
        taken = [k for k, v in saved.items() if k not in given and v != default[k]]
        if taken:
            said = ", ".join(f"{name}={saved[name]}" for name in taken)
            print(f"as in {place.settings_file}: {said}", file=sys.stderr)
        if given.keys() - UNSAVED:
            settings.save()
        return settings

    @classmethod
    def from_file(cls, path: str | Path, **overrides: Any) -> Self:
        """Build the settings from a YAML file of parameters, `overrides` winning.

        Raises what `read_parameters` raises, and ValueError naming file and field.
        """
        return cls.checked(read_parameters(path) | overrides, str(path))

    @classmethod
    def checked(cls, values: Mapping[str, Any], origin: str) -> Self:
        """Build the settings; a ValueError names `origin`, each bad field and the known ones.

        Where fields contradict each other it names those alone.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            faults = error.errors()
            said = f"{origin}: {'; '.join(_said(dict(fault)) for fault in faults)}"
            if any(fault["loc"] for fault in faults):
                said += f". Known settings: {', '.join(sorted(cls.model_fields))}"
            raise ValueError(said) from None

    def save(self) -> None:
        """Save the settings for the steps and notebooks to come, all but `UNSAVED`."""
        write_saved(self.settings_file, self.model_dump(mode="json", exclude=UNSAVED))

    def saved(self) -> dict[str, Any]:
        """The settings of the last run of this mode and root by name, empty where there is none.

        Raises what `read_saved` raises, and ValueError naming the file and the bad setting.
        """
        found = read_saved(self.settings_file, type(self).model_fields)
        self.checked({"mode": self.mode} | found, f"{self.settings_file} ({MEND})")
        return found

    def saved_beside(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What of `saved` counts beside settings that are given now.

        Raises what `saved` raises.
        """
        saved = self.saved()
        # Generated memes are read from no folder: what of the two was given last counts.
        if "data" in given and saved.get("dataset") == "confounders":
            del saved["dataset"]
        if given.get("dataset") == "confounders":
            saved.pop("data", None)
        return {name: value for name, value in saved.items() if name not in given}

    def guide(self) -> None:
        """Let messages advise commands for this mode and root, where none was given."""
        default = Layout().root
        commands.advise(self.mode, None if self.root == default else self.root)

    @property
    def fit_split(self) -> str:
        """The split that temperature and threshold are fitted on: val, in a pilot train."""
        return "val" if self.mode == "full" else "train"

    @property
    def report_split(self) -> str:
        """The split that decisions are reported on: test, in a pilot train."""
        return "test" if self.mode == "full" else "train"


def _said(fault: Mapping[str, Any]) -> str:
    """A fault of pydantic's in one phrase; one of several settings together stands for itself."""
    if not fault["loc"]:
        return fault["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, fault['loc']))}={fault['input']!r}: {fault['msg']}"
