"""Settings in files: the YAML a run is given, and the JSON that it leaves for what comes after."""

import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from lib.artifacts import write_text
from lib.layout import ROOT

# The settings that name folders, and those that may.
FOLDERS = {"root", "data"}
BACKBONES = {"text_model", "vision_model", "dual_encoder"}

MEND = "delete the file and give the settings once more"


def read_parameters(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file by name; its relative folders are those of the project.

    Raises FileNotFoundError, or ValueError naming the file, and the line of a setting that is
    given a second time.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected `name: value` lines, found {type(content).__name__}")
    _refuse_twice(path, text)
    return in_project(content)


def _refuse_twice(path: Path, text: str) -> None:
    # PyYAML takes the last one without a word.
    lines: dict[str, int] = {}
    root = yaml.compose(text, yaml.SafeLoader)
    for key, _ in root.value if isinstance(root, yaml.MappingNode) else ():
        line = key.start_mark.line + 1
        if key.value in lines:
            raise ValueError(
                f"{path}, line {line}: {key.value} is given already in line {lines[key.value]}; "
                "keep one"
            )
        lines[key.value] = line


def in_project(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings, relative folders taken from the project's and never from the caller's.

    A backbone's name that is such a folder is taken for that, any other for one of the hub's.
    """
    places = {
        name: ROOT / Path(value).expanduser()
        for name, value in values.items()
        if name in FOLDERS | BACKBONES and isinstance(value, str | Path)
    }
    found = {n: str(place) for n, place in places.items() if n in FOLDERS or place.is_dir()}
    return {**values, **found}


def read_saved(file: Path, known: Collection[str]) -> dict[str, Any]:
    """The settings that `write_saved` left by name, empty where there are none.

    A name that is not `known`, of another version, is left out with a warning.
    Raises ValueError naming the file.
    """
    if not file.exists():
        return {}
    try:
        content = dict(json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} holds no settings as JSON ({error}); {MEND}") from None
    if unknown := sorted(content.keys() - known):
        said = f"{file}: ignoring {', '.join(unknown)}, unknown to this version"
        warnings.warn(said, stacklevel=2)
    return {name: value for name, value in content.items() if name not in unknown}


def write_saved(file: Path, content: Mapping[str, Any]) -> None:
    """Save settings by name, floats to the last digit."""
    write_text(file, json.dumps(content, indent=2, sort_keys=True) + "\n")
