"""The encoders that fusion has beyond the experts: which a head reads, and their files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lib.data.folding import check_folding
from lib.modeling.dual_encoder import DualText, DualVision
from lib.modeling.encoders import Encoders, Source, TextEncoder, VisionEncoder
from lib.modeling.model_files import load_expert, rebuilt
from lib.modeling.stacking import NGRAMS

# The folder in `models/mm_fusion/encoders/` of each encoder that fusion has of its own.
FOLDERS = {
    "text_encoder": "text_encoder",
    "vision_encoder": "vision_encoder",
    "dual_text": "dual_encoder",
    "dual_vision": "dual_encoder",
    NGRAMS: "ngrams",
}

# What each of them gives a head to read.
GIVES = {
    "text_encoder": ("text_cls", "text_mean", "text_tokens"),
    "vision_encoder": ("vision_pooled", "vision_patches"),
    "dual_text": ("text_dual",),
    "dual_vision": ("vision_dual",),
    NGRAMS: (NGRAMS,),
}

State = Mapping[str, torch.Tensor]


def own_sources(encoders: Encoders, inputs: Sequence[str]) -> dict[str, Source]:
    """The encoders of fusion's own that give any of a head's `inputs`."""
    return {
        name: encoders.sources[name]
        for name, given in GIVES.items()
        if name in encoders.sources and set(given) & set(inputs)
    }


def save_own(own: Mapping[str, Source], folder: Path, tuned: Sequence[str] = ()) -> None:
    """Write encoders of fusion's own below `folder`, a folder each.

    Of the `tuned` ones only what rebuilds them: their weights lie with the head's.
    """
    for name, source in own.items():
        source.save(folder / FOLDERS[name], weights=FOLDERS[name] not in tuned)


def own_state(own: Mapping[str, Source], tuned: Sequence[str]) -> dict[str, torch.Tensor]:
    """The weights of the `tuned` encoders, each name led by that of the encoder's folder."""
    models = {FOLDERS[n]: source.model for n, source in own.items() if FOLDERS[n] in tuned}
    return {
        f"{folder}.{name}": tensor.detach().cpu()
        for folder in tuned
        for name, tensor in models[folder].state_dict().items()
    }


def load_own(folder: Path, names: Sequence[str], tuned: Mapping[str, State]) -> dict[str, Source]:
    """Read what `save_own` wrote: the folders `names` below `folder`.

    `tuned` holds the weights of those whose folder has none.
    """
    own: dict[str, Source] = {}
    if "text_encoder" in names:
        found = load_expert(folder / "text_encoder", tuned.get("text_encoder"))
        own["text_encoder"] = TextEncoder(*found)
    if "vision_encoder" in names:
        found = load_expert(folder / "vision_encoder", tuned.get("vision_encoder"))
        own["vision_encoder"] = VisionEncoder(*found)
    if "ngrams" in names:
        # Here, since scikit-learn takes a while to import and few heads need it.
        from lib.modeling.ngrams import Ngrams

        own[NGRAMS] = Ngrams.load(folder / "ngrams")
    if "dual_encoder" in names:
        own |= _load_dual(folder / "dual_encoder", tuned.get("dual_encoder"))
    return own


def _load_dual(folder: Path, state: State | None) -> dict[str, Source]:
    """The towers that a folder has the tokenizer and the image processor of."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    if state is None:
        model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    else:
        model = rebuilt(AutoModel, folder, state)
    check_folding(getattr(model.config, "text_folding", 0), str(folder / "config.json"))
    towers: dict[str, Source] = {}
    if (folder / "tokenizer_config.json").exists():
        towers["dual_text"] = DualText(model, AutoTokenizer.from_pretrained(folder))
    if (folder / "preprocessor_config.json").exists():
        towers["dual_vision"] = DualVision(model, AutoImageProcessor.from_pretrained(folder))
    return towers
