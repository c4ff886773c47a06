"""What a message about a checkpoint advises: a script, as it is called from here."""

import shlex
import sys
from pathlib import Path

from lib.config import ROOT


def script_command(
    script: str, model: str | Path, data: str | Path | None = None, *flags: str
) -> str:
    """The command that runs `scripts/<script>.py` on a checkpoint folder, by this interpreter.

    `data` is the folder for `--data`, None to leave it out; `flags` come first.
    """
    words = [_from_here(Path(sys.executable)), _from_here(ROOT / "scripts" / f"{script}.py")]
    words += [*flags, "--model", str(model)]
    words += [] if data is None else ["--data", str(data)]
    return shlex.join(words)


def _from_here(file: Path) -> str:
    inside = file.is_relative_to(Path.cwd())
    return str(file.relative_to(Path.cwd()) if inside else file)
