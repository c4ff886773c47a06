"""Run the step notebooks in order: `python -m lib.run --mode pilot`."""

import argparse
import contextlib
import hashlib
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import papermill
import yaml
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from lib.commands import again, handed_down, run_command
from lib.config import ROOT, Settings
from lib.data.processes import alone
from lib.kernels import BatchKernels, forget_tasks
from lib.last_run import keep_state, read_by, unchanged
from lib.notebook_warnings import warnings_in
from lib.settings_files import BACKBONES, read_parameters

NOTEBOOKS = {
    3: "Step_3/step3_pack_examples.ipynb",
    4: "Step_4/step4_unimodal_experts.ipynb",
    5: "Step_5/step5_fusion.ipynb",
    6: "Step_6/step6_evaluation.ipynb",
    7: "Step_7/step7_analysis.ipynb",
    8: "Step_8/step8_inference.ipynb",
}

# A cell of a full run may train through a night; a hung one should still end.
CELL_TIMEOUT_S = {"pilot": 900, "full": 48 * 3600}


class StepFailed(RuntimeError):
    """A notebook stopped; the message names notebook, cell, error and how to go on."""


def run_steps(
    parameters: Mapping[str, Any], first: int = 3, last: int = 8, command: str | None = None
) -> None:
    """Execute the notebooks of steps `first` to `last` with papermill, one progress line each.

    `parameters` are settings by name. The executed copies go to `runs/<mode>/` under the root, and
    the settings beside them; what they warn of is repeated on stderr. `command` is what a message
    advises to go on with, behind it `--from` and a step; by default it spells the parameters out.
    Raises ValueError for a bad setting before anything runs, and StepFailed at the first failure.
    """
    settings = Settings.checked(parameters, "settings")
    if "fusion_head" in parameters and settings.fusion_head != "auto":
        # Here, since loading the heads takes seconds; known too late, it would cost the experts.
        from lib.modeling.heads import check_head

        check_head(settings.fusion_head, settings.token_heads)
    if settings.dual_encoder and first <= 5 <= last:
        from lib.modeling.fusion_inputs import check_dual

        check_dual(settings.dual_encoder)
    # The kernel starts elsewhere: what it gets must not depend on the caller's folder.
    given = {**parameters, "mode": settings.mode, "root": str(settings.root)}
    if settings.data:
        given["data"] = str(settings.data)
    # papermill warns of each setting that a notebook's parameters cell does not list; here all
    # notebooks get all settings, checked above.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    settings.run_folder.mkdir(parents=True, exist_ok=True)
    with handed_down(command or _spelt(given)):
        for step in range(first, last + 1):
            _execute(step, given, settings.run_folder, settings.mode)
            # Once a step has succeeded: settings that were refused describe no artifact.
            settings.save()


def _execute(step: int, parameters: Mapping[str, Any], folder: Path, mode: str) -> None:
    notebook = NOTEBOOKS[step]
    executed = folder / Path(notebook).name
    try:
        papermill.execute_notebook(
            _literal(ROOT / notebook),
            _literal(executed),
            parameters=dict(parameters),
            kernel_name="python3",
            cwd=ROOT,
            progress_bar={
                "desc": f"Step {step}",
                "bar_format": "{desc} {bar:30} {n_fmt}/{total_fmt} cells, {elapsed}",
            },
            execution_timeout=CELL_TIMEOUT_S[mode],
            kernel_manager_class=BatchKernels,
            # The kernel's warning about its own transport would break into the progress line.
            extra_arguments=["--IPKernelApp.log_level=40"],
        )
    except PapermillExecutionError as error:
        said = f", cell {error.cell_index}: {error.ename}: {error.evalue}"
        kept = error.ename == "FileExistsError" and "overwrite=true" in error.evalue
        raise _failed(step, executed, said, kept) from None
    except DeadKernelError:
        said = ": its kernel died, most often because memory ran out (see batch_size, workers)"
        raise _failed(step, executed, said) from None
    except CellTimeoutError:
        said = f": a cell ran for longer than {CELL_TIMEOUT_S[mode]} s and was ended"
        raise _failed(step, executed, said) from None
    _repeat_warnings(executed)


def _repeat_warnings(executed: Path) -> None:
    for warning in warnings_in(executed):
        print(f"warning of {executed.name}: {warning}", file=sys.stderr)


def _failed(step: int, executed: Path, said: str, kept: bool = False) -> StepFailed:
    """The failure in words; `kept` where the step would have replaced another run's work."""
    # What a step warned of before it failed may be the cause.
    _repeat_warnings(executed)
    mend = "To replace what is there" if kept else "After mending it"
    return StepFailed(
        f"Step {step} failed: {NOTEBOOKS[step]}{said}\n"
        f"The executed copy is {executed}. {mend} go on with: {again(step, overwrite=kept)}"
    )


def _literal(path: Path) -> str:
    """A path in which papermill finds no parameters to fill in."""
    return str(path).replace("{", "{{").replace("}", "}}")


def main(arguments: list[str] | None = None) -> int:
    """Run the steps; 0 if all ran, 1 if one failed, 2 if a setting is wrong."""
    parser = argparse.ArgumentParser(prog="python -m lib.run", description=__doc__)
    parser.add_argument("--mode", choices=("pilot", "full"), help="pilot: 50 memes, one split")
    parser.add_argument("--config", type=Path, help="YAML file of settings, as in configs/")
    parser.add_argument("--data", help="folder with your own Datasets/ and Step_2/")
    parser.add_argument("--root", help="folder for everything written; default: the project's")
    parser.add_argument(
        "--from",
        dest="first",
        type=int,
        choices=NOTEBOOKS,
        help="first step; without it a run that would change nothing is not repeated",
    )
    parser.add_argument(
        "--to", dest="last", type=int, default=8, choices=NOTEBOOKS, help="last step"
    )
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="one setting"
    )
    options = parser.parse_args(arguments)
    if options.first is not None and options.first > options.last:
        parser.error(f"--from {options.first} comes after --to {options.last}: no step would run")
    try:
        parameters = _parameters(options)
        settings = Settings.checked(parameters, "settings")
        whole = options.first in (None, min(NOTEBOOKS)) and options.last == max(NOTEBOOKS)
        if whole and options.first is None and unchanged(settings):
            print(_finished(settings, _command(options)))
            return 0
        read = read_by(settings)
        with _alone(settings):
            run_steps(parameters, options.first or min(NOTEBOOKS), options.last, _command(options))
        if whole:
            keep_state(settings, read)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StepFailed as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        forget_tasks()
        print("\nstopped; the same command begins again, and skips what is done", file=sys.stderr)
        return 130
    return 0


def _alone(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """Keep other runs of this mode from the root meanwhile; ValueError where there is one."""
    return alone(
        hashlib.sha256(str(settings.run_folder).encode()).hexdigest()[:16],
        f"another {settings.mode} run writes to {settings.root}; wait for its end, or give another "
        "--root",
    )


def _finished(settings: Settings, command: str) -> str:
    return (
        f"Nothing has changed since the last run; its notebooks are in {settings.run_folder}. "
        f"To run them all the same: {command} --from {min(NOTEBOOKS)}"
    )


def _parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Those of the configuration, without one those of the last run, the options' winning."""
    named = {name: getattr(options, name) for name in ("mode", "data", "root")}
    given = {name: value for name, value in named.items() if value is not None}
    given |= {name: _here(name, _value(name, text)) for name, text in options.p}
    if options.config:
        parameters = read_parameters(options.config) | given
        try:
            Settings.checked(parameters, "settings")
        except ValueError:
            # Names the file, if what is wrong stands there; options may complete what it lacks.
            Settings.from_file(options.config)
            raise
        return parameters
    place: dict[str, Any] = {name: given[name] for name in ("mode", "root") if name in given}
    return Settings.checked(place, "options").saved_beside(given) | given


def _command(options: argparse.Namespace) -> str:
    """The command as it was given, without the step that it began with."""
    names = ("mode", "config", "data", "root")
    last = {"to": options.last} if options.last < max(NOTEBOOKS) else {}
    return run_command({name: getattr(options, name) for name in names} | last, options.p)


def _spelt(parameters: Mapping[str, Any]) -> str:
    options = {name: parameters.get(name) for name in ("mode", "data", "root")}
    others = {k: v for k, v in parameters.items() if k not in options and v is not None}
    # JSON is YAML, and quotes what YAML would take for a number.
    return run_command(options, [(k, json.dumps(v, default=str)) for k, v in others.items()])


def _here(name: str, value: Any) -> Any:
    """A backbone that is a folder by its whole path, as notebooks run elsewhere."""
    folder = Path(value).expanduser() if name in BACKBONES and isinstance(value, str) else None
    return str(folder.resolve()) if folder is not None and folder.is_dir() else value


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"-p {name} {text}: the value is not YAML; put it in quotes") from None


if __name__ == "__main__":
    sys.exit(main())
