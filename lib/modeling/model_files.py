"""Models of transformers in folders: loaded, saved, and told apart by their weights."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lib.commands import again
from lib.data.folding import check_folding


def load_expert(
    folder: str | Path, state: Mapping[str, torch.Tensor] | None = None
) -> tuple[Any, Any]:
    """Load an expert in eval mode and single precision with its tokenizer or image processor.

    With `state` its weights are these, and the folder needs to hold none.
    Raises FileNotFoundError naming the folder and the step that fills it, and ValueError if its
    weights are cut short or it was trained with a text folding that is not known here.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no trained expert; train it with Step 4: {again(4)}"
        )
    if state is None and not has_weights(folder):
        # Fusion's own encoders are written by the step after.
        step = 5 if folder.parent.name == "encoders" else 4
        raise ValueError(
            f"{folder}: the weights (*.safetensors) are missing or cut short; write them again "
            f"with Step {step}: {again(step)}"
        )
    # Imported here because they take longer than all else that serving imports together.
    if folder.name.startswith("text"):
        from transformers import AutoModelForSequenceClassification as Model
        from transformers import AutoTokenizer as Processor
    else:
        from transformers import AutoImageProcessor as Processor
        from transformers import AutoModelForImageClassification as Model
    if state is None:
        model = Model.from_pretrained(folder, dtype=torch.float32)
    else:
        model = rebuilt(Model, folder, state)
    check_folding(getattr(model.config, "text_folding", 0), str(folder / "config.json"))
    return model.eval(), Processor.from_pretrained(folder, **processor_options(model))


def has_weights(folder: Path) -> bool:
    """Whether a folder holds weights, each file of them to its end."""
    files = [file for file in folder.iterdir() if file.suffix == ".safetensors"]
    return len(files) > 0 and all(map(is_whole, files))


def is_whole(file: Path) -> bool:
    """Whether a file of tensors is there, and as long as its table of contents says."""
    try:
        with safe_open(file, framework="pt"):
            return True
    except (SafetensorError, FileNotFoundError):
        return False


def processor_options(model: Any) -> dict[str, Any]:
    """What loading the tokenizer or image processor of a model needs to be told."""
    # timm's works with Pillow alone; unless told so, transformers asks for torchvision and warns.
    return {"backend": "pil"} if model.config.model_type == "timm_wrapper" else {}


def rebuilt(auto_class: Any, folder: Path, state: Mapping[str, torch.Tensor]) -> Any:
    """The model that a folder's configuration describes, with the weights `state`.

    It is in eval mode and single precision.
    Raises RuntimeError if they are not those of such a model.
    """
    from transformers import AutoConfig

    model = auto_class.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    model.load_state_dict(state)
    return model.eval()


def weights_fingerprint(
    model: torch.nn.Module, without: tuple[str, ...] = (), prepared: str = ""
) -> str:
    """SHA-256 over names and bytes of a model's tensors, shortened to 16 digits.

    Tensors whose name begins with one of `without` do not count; `prepared` says how the inputs
    are made, which counts too.
    """
    digest = hashlib.sha256(prepared.encode())
    for name, tensor in sorted(model.state_dict().items()):
        # A frozen batch normalisation does not count the batches, and computes the same.
        if not name.startswith(without) and not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def fingerprint_of_processor(processor: Any) -> str:
    """All settings of an image processor."""
    return json.dumps(processor.to_dict(), sort_keys=True, default=str)


def fingerprint_of_tokenizer(tokenizer: Any) -> str:
    """All that decides the tokens of a text, but for how it was last cut and padded."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    kept = {name: value for name, value in content.items() if name not in ("truncation", "padding")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def save_processor(processor: Any, folder: Path) -> None:
    """Write an image processor, or a tokenizer as it is before its first use.

    A fast tokenizer keeps how it last cut and padded, and would be another file after a pass whose
    outcome was cached.
    """
    backend = getattr(processor, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    processor.save_pretrained(folder)


def save_model(model: Any, folder: Path, weights: bool) -> None:
    """Write a model of transformers to a folder, or its configuration alone."""
    (model if weights else model.config).save_pretrained(folder)
