"""Where a run's files lie: every path follows from the root and the mode."""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

ROOT = Path(__file__).resolve().parent.parent


class Layout(BaseModel):
    """The folders of one run.

    The pilot has those that the documents name. A full run keeps what would be in its way in
    folders of its own, so that both stand side by side and `mode` alone says which one is read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["pilot", "full"] = "pilot"
    root: Path = Field(
        default_factory=lambda: Path(os.environ.get("MEMES_ROOT") or ROOT), validate_default=True
    )

    @field_validator("root")
    @classmethod
    def _absolute_root(cls, folder: Path) -> Path:
        return folder.expanduser().resolve()

    @property
    def _own(self) -> str:
        return "full" if self.mode == "full" else ""

    @property
    def step3(self) -> Path:
        """What Step 3 packed in this mode: shards, splits, statistics."""
        return self.root / "Step_3" / self._own

    @property
    def taxonomy(self) -> Path:
        """The label schema, one for both modes."""
        return self.root / "Step_3" / "label_taxonomy.json"

    @property
    def shards(self) -> Path:
        return self.step3 / "shards"

    @property
    def features(self) -> Path:
        return self.root / "Step_5" / self._own / "features"

    @property
    def models(self) -> Path:
        return self.root / "models" / self._own

    @property
    def run_folder(self) -> Path:
        """The executed notebooks, and the settings that they were run with."""
        return self.root / "runs" / self.mode

    @property
    def settings_file(self) -> Path:
        """Where the settings of this mode's last run are saved."""
        return self.run_folder / "settings.json"

    def model_folder(self, model: str) -> Path:
        return self.models / model

    def artifact(self, step: int, name: str) -> Path:
        """The path of an artifact of this mode: ("results.json", step 6) is results_pilot.json."""
        stem, _, suffix = name.rpartition(".")
        folder = self.step3 if step == 3 else self.root / f"Step_{step}"
        return folder / f"{stem}_{self.mode}.{suffix}"
