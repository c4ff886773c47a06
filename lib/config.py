"""One run's settings: checked once, frozen, every path derived from the root."""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ROOT = Path(__file__).resolve().parent.parent

PILOT_SIZE = 50
MODELS = ("text_expert", "vision_expert", "mm_fusion")


def _default_root() -> Path:
    return Path(os.environ.get("MEMES_ROOT", ROOT))


class Settings(BaseModel):
    """What a run needs to know; an unknown key or a mistyped value raises pydantic's ValidationError.

    `root` holds everything the run reads and writes; its default is the project's own folder, or
    the environment variable MEMES_ROOT. `data` is a folder with `Datasets/` and `Step_2/` of the
    user's own; without one Step 3 looks in `root`, then generates memes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    mode: Literal["pilot", "full"] = "pilot"
    root: Path = Field(default_factory=_default_root)
    data: Path | None = None
    overwrite: bool = False
    seed: int = Field(default=0, ge=0)
