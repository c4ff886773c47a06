"""What a service is started with: from the command line, else from the environment."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from lib.data.pictures import MAX_PIXELS
from lib.serving.memes import MOST_TEXT

# Before a setting's name in the environment, as in MEMES_TOKEN.
PREFIX = "MEMES_"


class ServiceSettings(BaseModel):
    """The limits of a service; an unknown name or an impossible value is a ValidationError."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mode: Literal["pilot", "full"] = Field(
        default="pilot", description="whose models and decisions"
    )
    root: Path | None = Field(default=None, description="folder of the run; default: the project's")
    device: str | None = Field(
        default=None, description="such as cpu or cuda; default: the fastest"
    )
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free one")
    page: bool = Field(default=False, description="serve the page for people as well")
    token: SecretStr | None = Field(
        default=None, min_length=8, description="what clients send as 'Authorization: Bearer TOKEN'"
    )
    max_batch: int = Field(default=16, ge=1, description="memes that the model is shown at once")
    max_wait_ms: float = Field(
        default=30, ge=0, le=1000, description="how long a batch waits for memes being read"
    )
    queue: int = Field(
        default=128, ge=1, description="memes accepted and unanswered; more get a 503"
    )
    max_items: int = Field(default=64, ge=1, description="memes a request of /predict_batch")
    readers: int = Field(default=2, ge=1, le=64, description="threads that read pictures")
    max_upload_mb: float = Field(default=20, gt=0, description="megabytes a request")
    max_held_mb: float = Field(default=512, gt=0, description="megabytes of all requests together")
    max_pixels: int = Field(default=MAX_PIXELS, ge=1, le=MAX_PIXELS, description="pixels a picture")
    max_text: int = Field(default=MOST_TEXT, ge=1, le=MOST_TEXT, description="characters a text")
    read_timeout: float = Field(default=10, gt=0, description="seconds for a request to arrive")
    request_timeout: float = Field(
        default=30, gt=0, description="seconds for its answer, then a 504"
    )
    retry_after: int = Field(default=1, ge=1, description="seconds that a 503 asks to wait")
    histogram_every: float = Field(
        default=60, gt=0, description="seconds between writes of histograms"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_items > self.queue:
            raise ValueError(f"max_items {self.max_items} do not fit into a queue of {self.queue}")
        if self.max_upload_mb > self.max_held_mb:
            raise ValueError("max_upload_mb is more than max_held_mb, for all requests together")
        if self.page and self.token:
            raise ValueError("a browser cannot send the token to the page; serve it without")
        return self

    @property
    def max_upload(self) -> int:
        """Bytes."""
        return int(self.max_upload_mb * 1e6)

    @property
    def max_held(self) -> int:
        """Bytes."""
        return int(self.max_held_mb * 1e6)

    @classmethod
    def from_command_line(
        cls, arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ
    ) -> Self:
        """What the options say, else `MEMES_<NAME>` in the environment, else the default.

        Raises ValueError naming the options or variables that cannot be.
        """
        parser = argparse.ArgumentParser(
            prog="python -m lib.serving.service",
            description=f"Serve predict over HTTP. Each option may be set as {PREFIX}<NAME> too.",
        )
        for name, field in cls.model_fields.items():
            flag: dict[str, Any] = {}
            if field.annotation is bool:
                flag = {"action": "store_const", "const": True}
            default = "" if field.default in (None, False) else f" ({field.default})"
            # The token stays out of the list of processes.
            if name != "token":
                option = f"--{name.replace('_', '-')}"
                parser.add_argument(option, help=f"{field.description}{default}", **flag)
        options = vars(parser.parse_args(arguments))
        return cls.read({k: v for k, v in options.items() if v is not None}, environment)

    @classmethod
    def read(cls, given: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Self:
        """What is given, else `MEMES_<NAME>` in the environment, else the default.

        Raises ValueError naming the options or variables that cannot be.
        """
        if environment.get(f"{PREFIX}TOKEN") == "":
            # As it comes from a variable that was never set: the service would stand open.
            raise ValueError(f"{PREFIX}TOKEN is empty; give a token, or unset it to ask for none")
        found = {name: environment.get(PREFIX + name.upper()) for name in cls.model_fields}
        try:
            return cls.model_validate({k: v for k, v in found.items() if v} | dict(given))
        except ValidationError as error:
            raise ValueError("; ".join(_said(fault, given) for fault in error.errors())) from None


def _said(fault: Mapping[str, object], given: Mapping[str, object]) -> str:
    place = fault["loc"]
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not isinstance(place, tuple) or not place:
        return message
    name = str(place[0])
    where = f"--{name.replace('_', '-')}" if name in given else PREFIX + name.upper()
    # The value of a token is nobody's business.
    return f"{where}: {message}" if name == "token" else f"{where}={fault['input']}: {message}"
