"""One run's settings: checked once, frozen, every path derived from the root."""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

ROOT = Path(__file__).resolve().parent.parent

MODELS = ("text_expert", "vision_expert", "mm_fusion")

PILOT_SIZE = 50

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
        "fusion_seeds": 5,
    },
}


class Settings(BaseModel):
    """What a run needs to know; an unknown key or a mistyped value is an error.

    `root` holds everything the run reads and writes; its default is the environment variable
    MEMES_ROOT, else the project's own folder. `data` is a folder with the user's own `Datasets/`
    and `Step_2/`, or the folder of a public data set named by `dataset`; without it Step 3 looks
    in `root`, then generates `n_memes` memes. Defaults that depend on `mode` stand in `PRESETS`.
    Raises pydantic's ValidationError, which is a ValueError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["pilot", "full"] = "pilot"
    root: Path = Field(default_factory=lambda: Path(os.environ.get("MEMES_ROOT", ROOT)))
    overwrite: bool = False
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=2, ge=0)

    # Step 3
    data: Path | None = None
    dataset: str = "auto"
    n_memes: int = Field(ge=8)
    captions: bool = False

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
    # Whether the text models are shown `[OCR]`, `[CAP]` and so on: 21 of a text's 47 tokens.
    text_markers: Literal["keep", "drop"] = "keep"
    class_weights: bool = False
    patience: int = Field(default=2, ge=1)
    # What chooses the epoch of an expert and the head of fusion, on val.
    select_by: Literal["log_loss", "auroc", "macro_f1"] = "log_loss"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    text_tuning: Literal["full", "top_k", "lora"] = "full"
    vision_tuning: Literal["full", "top_k", "lora"] = "full"
    top_k: int = Field(default=2, ge=0)
    lora_rank: int = Field(default=8, ge=1)
    bf16: bool | None = None

    # Step 5
    fusion_features: Literal["experts", "out_of_fold", "held_out"]
    folds: int = Field(default=4, ge=2)
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
    # Heads that attend to tokens and patches need N * (L * t + P * w) half floats of memory.
    token_heads: bool = True
    fusion_hidden: int = Field(default=256, ge=1)
    # The width that heads project text and picture to; four heads of attention share it.
    fusion_rank: int = Field(default=64, ge=4, multiple_of=4)
    fusion_dropout: float = Field(default=0.1, ge=0, lt=1)
    fusion_epochs: int = Field(default=20, ge=1)
    fusion_lr: float = Field(default=2e-3, gt=0)
    fusion_l2: float = Field(default=0.01, ge=0)
    fusion_seeds: int = Field(ge=1)
    # What learns together with the head afterwards: nothing, the last layers, or LoRA adapters.
    fusion_tuning: Literal["none", "top_k", "lora"] = "none"
    # How many layers that is; not Step 4's `top_k`, which is 0 where experts stay frozen.
    fusion_top_k: int = Field(default=2, ge=1)
    fusion_tuning_epochs: int = Field(default=1, ge=1)
    fusion_tuning_lr: float = Field(default=1e-5, gt=0)

    @field_validator("root", "data")
    @classmethod
    def _absolute(cls, folder: Path | None) -> Path | None:
        return folder and folder.expanduser().resolve()

    @field_validator("text_feature", "vision_feature")
    @classmethod
    def _given_by_a_dual_encoder(cls, feature: str, info: ValidationInfo) -> str:
        if feature == "dual" and info.data.get("dual_encoder") is None:
            raise ValueError("needs a dual_encoder, such as openai/clip-vit-large-patch14-336")
        return feature

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in given.items() if value is not None}
        return PRESETS.get(given.get("mode", "pilot"), {}) | given

    @classmethod
    def from_notebook(cls, namespace: MutableMapping[str, Any]) -> Self:
        """Build the settings from what a notebook's parameters cell, or papermill, has assigned.

        Call it in the cell after the parameters as `Settings.from_notebook(globals())`. Every
        public name assigned by then counts as a setting, so that a misspelt one is an error
        instead of being ignored; a later call in the same kernel counts the same names.
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
        return cls.checked({name: namespace[name] for name in sorted(names)}, "parameters cell")

    @classmethod
    def from_file(cls, path: str | Path, **overrides: Any) -> Self:
        """Build the settings from a YAML file of parameters, `overrides` winning.

        Raises FileNotFoundError, or ValueError naming file and field.
        """
        path = Path(path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise ValueError(
                f"{path}: expected `name: value` lines, found {type(content).__name__}"
            )
        return cls.checked(content | overrides, str(path))

    @classmethod
    def checked(cls, values: Mapping[str, Any], origin: str) -> Self:
        """Build the settings; a ValueError names `origin`, each bad field and the known ones."""
        try:
            return cls(**values)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, e['loc']))}={e.get('input')!r}: {e['msg']}"
                for e in error.errors()
            )
            known = ", ".join(sorted(cls.model_fields))
            raise ValueError(f"{origin}: {faults}. Known settings: {known}") from None

    @property
    def fit_split(self) -> str:
        """The split that temperature and threshold are fitted on: val, in a pilot train."""
        return "val" if self.mode == "full" else "train"

    @property
    def report_split(self) -> str:
        """The split that decisions are reported on: test, in a pilot train."""
        return "test" if self.mode == "full" else "train"

    @property
    def autocast(self) -> bool:
        """Whether encoders run in bfloat16 where Step 5 and later only read them."""
        return bool(self.bf16)

    @property
    def step3(self) -> Path:
        return self.root / "Step_3"

    @property
    def shards(self) -> Path:
        return self.step3 / "shards"

    @property
    def features(self) -> Path:
        return self.root / "Step_5" / "features"

    @property
    def models(self) -> Path:
        return self.root / "models"

    def model_folder(self, model: str) -> Path:
        return self.models / model

    def artifact(self, step: int, name: str) -> Path:
        """The path of an artifact of this mode: ("results.json", step 6) is results_pilot.json."""
        stem, _, suffix = name.rpartition(".")
        return self.root / f"Step_{step}" / f"{stem}_{self.mode}.{suffix}"
