"""What a message advises: the command that was given, from the step that mends the fault."""

import contextlib
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

# The environment variable in which `lib.run` hands its own command to the kernels it starts.
GIVEN = "MEMES_COMMAND"
OVERWRITE = " -p overwrite true"

_advised: dict[str, Any] = {}


def run_command(options: Mapping[str, Any], settings: Iterable[tuple[str, str]] = ()) -> str:
    """`lib.run` with these options and, behind `-p`, single settings; None leaves an option out.

    The interpreter is this one, so that the command works as typed.
    """
    words = [_interpreter(), "-m", "lib.run"]
    for name, value in options.items():
        words += [] if value is None else [f"--{name}", str(value)]
    for name, value in settings:
        words += ["-p", name, value]
    return shlex.join(words)


def again(step: int, overwrite: bool = False) -> str:
    """The command that goes on from a step; `overwrite` lets it replace what another run made.

    It is the one that `lib.run` was given, else one for the mode and root last advised: the
    settings saved there make up the rest.
    """
    command = os.environ.get(GIVEN) or run_command(_advised)
    # Never saved, so that only the command itself can say it.
    added = OVERWRITE if overwrite and OVERWRITE not in command else ""
    return f"{command}{added} --from {step}"


def advise(mode: str, root: Path | None) -> None:
    """Let `again` name this mode and, where it is not the default, this root."""
    _advised.update(mode=mode, root=root)


@contextlib.contextmanager
def handed_down(command: str) -> Iterator[None]:
    """Let `again`, here and in processes started meanwhile, go on with `command`."""
    before = os.environ.get(GIVEN)
    os.environ[GIVEN] = command
    try:
        yield
    finally:
        if before is None:
            del os.environ[GIVEN]
        else:
            os.environ[GIVEN] = before


def _interpreter() -> str:
    here = Path(sys.executable)
    inside = here.is_relative_to(Path.cwd())
    return str(here.relative_to(Path.cwd()) if inside else here)
