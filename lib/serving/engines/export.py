"""The models as files for other languages: `python -m lib.serving.engines.export --mode full`.

In `Step_8/engines/<mode>/onnx/`: one graph from inputs to the logits of the three models, the
tokenizers, the n-gram model where there is one, and a card that says how inputs are made and
answers are read.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib.artifacts import atomic_path, fingerprint, write_json, write_text
from lib.config import MODELS, Settings
from lib.data.folding import folded
from lib.data.pictures import PADDING, SIZE
from lib.data.text import combined_text
from lib.decisions.bundle import DecisionBundle
from lib.modeling.dual_encoder import is_siglip
from lib.modeling.encoders import Source, drops_markers
from lib.modeling.fusion import load_fusion
from lib.serving.engines.kept import engine_folder, versions
from lib.serving.engines.onnx_files import export_onnx
from lib.serving.engines.readme import readme
from lib.serving.engines.whole_graph import WholeGraph, input_name

GRAPH = "meme_classifier.onnx"

# How far the card's pixels may be from the model's own, in parts of black to white: processors
# that resize tensors round otherwise than Pillow, by less than two of 255.
_MOST_APART = 0.02

# Disguised texts, to try another language's folding on; Cyrillic letters stand as their numbers.
_DISGUISED = (
    *("h3llo w0rld", "l o o k here", "s\u043e\u043e\u043e g\u043e\u043ed", "\u0455t\u043ep"),
    *("hApPy dAyS", "plain words stay", "tihs was thoughtof", "3days left", "seen on @funnysite"),
    *(combined_text("tihs was thoughtof"), combined_text("die tiere sind da", lang="de")),
)


def export(settings: Settings) -> Path:
    """Write the folder, whole or not at all, and return it.

    Raises what `MemeClassifier.load` raises, ValueError if the graph computes something else than
    the models, or the card cannot say how an encoder's inputs are made, and ModuleNotFoundError
    where the extra `export` is missing.
    """
    decision = DecisionBundle.load(settings)
    model = load_fusion(settings.models, "cpu")
    decision.verify(settings.models)
    preparation = {n: _preparation(n, s) for n, s in model.encoders.sources.items()}
    with atomic_path(engine_folder(settings) / "onnx") as new:
        new.mkdir()
        graph = WholeGraph(model).eval()
        export_onnx(graph, graph.example, graph.outputs, new / GRAPH, graph.axes)
        for name, source in model.encoders.sources.items():
            _save_texts_preparation(name, source, new)
        card = {
            "graph": {"file": GRAPH, "fingerprint": fingerprint(new / GRAPH)},
            "inputs": _inputs(graph),
            "outputs": {name: {"dtype": "float32", "shape": ["batch", 2]} for name in MODELS},
            "preparation": preparation,
            "text_form": combined_text("the overlaid text"),
            "picture": {"size": SIZE, "padding": list(PADDING), "resample": "bicubic"},
            "decision": _decision(decision),
            "folding_examples": _folding_examples(model.encoders.sources.values()),
            "models": {name: decision.fingerprints[name] for name in MODELS},
            "versions": versions(),
        }
        write_json(new / "card.json", card)
        write_text(new / "README.md", readme(card))
    return engine_folder(settings) / "onnx"


def _folding_examples(sources: Iterable[Source]) -> list[dict[str, Any]]:
    """Texts as each version of the folding that one of the encoders reads makes them."""
    versions = sorted({source.folding for source in sources} - {0})
    return [
        {"folding": version, "text": text, "folded": folded(text, version)}
        for version in versions
        for text in _DISGUISED
    ]


def _save_texts_preparation(name: str, source: Source, folder: Path) -> None:
    """A text encoder's tokenizer, or the n-gram model, as files."""
    if hasattr(source, "tokenizer") and _is_sentencepiece(source.tokenizer):
        saved = source.tokenizer.save_vocabulary(str(folder))[0]
        Path(saved).rename(folder / _tokenizer_file(name, source))
    elif hasattr(source, "tokenizer"):
        source.tokenizer.backend_tokenizer.no_truncation()
        source.tokenizer.backend_tokenizer.no_padding()
        source.tokenizer.backend_tokenizer.save(str(folder / _tokenizer_file(name, source)))
    elif not source.is_network:
        ngrams: Any = source
        content = {
            kind: {
                gram: [float(idf), float(weight)]
                for gram, idf, weight in zip(words, ngrams.arrays[kind], weights, strict=True)
            }
            for kind, words, weights in _with_weights(ngrams)
        }
        text = json.dumps(content | {"bias": float(ngrams.arrays["bias"][0])}, ensure_ascii=False)
        write_text(folder / f"{name}.json", text + "\n")


def _is_sentencepiece(tokenizer: Any) -> bool:
    """Whether a tokenizer is SigLIP's first, which has no file of `tokenizers`.

    Raises ValueError for any other that has none.
    """
    if hasattr(tokenizer, "backend_tokenizer"):
        return False
    if "spiece.model" not in tokenizer.vocab_files_names.values():
        raise ValueError(
            f"{type(tokenizer).__name__} has no file that other languages can read; train with a "
            "backbone whose tokenizer is one of Hugging Face's `tokenizers`"
        )
    return True


def _tokenizer_file(name: str, source: Any) -> str:
    kind = "spiece.model" if _is_sentencepiece(source.tokenizer) else "tokenizer.json"
    return f"{name}_{kind}"


def _with_weights(ngrams: Any) -> list[tuple[str, list[str], Any]]:
    # Here, since scikit-learn takes a while to import and few models need it.
    from lib.modeling.ngrams import KINDS

    found, start = [], 0
    for kind in KINDS:
        words = ngrams.vocabularies[kind]
        found.append((kind, words, ngrams.arrays["weights"][start : start + len(words)]))
        start += len(words)
    return found


def _inputs(graph: WholeGraph) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": [
                graph.axes[name].get(axis, length) for axis, length in enumerate(tensor.shape)
            ],
            "encoder": graph.inputs[name][0],
        }
        for name, tensor in graph.example.items()
    }


def _preparation(name: str, source: Any) -> dict[str, Any]:
    """How an encoder's inputs are made of the packed text, or of the letterboxed picture.

    Raises ValueError where a card cannot say it.
    """
    if source.modality == "vision":
        how = _checked_pixels(name, source)
        return {"modality": "vision", "input": input_name(name, "pixel_values")} | how
    folding = {"modality": "text", "folding": source.folding}
    if not source.is_network:
        return folding | {"file": f"{name}.json", "markers": "drop", "input": name}
    dual = not hasattr(source, "logits") and name == "dual_text"
    siglip = dual and is_siglip(source.model)
    tokenizer = source.tokenizer
    return folding | {
        "file": _tokenizer_file(name, source),
        "markers": "drop" if dual or drops_markers(source.model) else "keep",
        "max_length": source.length if dual else tokenizer.model_max_length,
        "padding": "max_length" if siglip else "longest",
        "lower": siglip,
        # As its tokenizer does by itself where it is a `tokenizers` file.
        "strip_punctuation": _is_sentencepiece(tokenizer),
        "pad_id": tokenizer.pad_token_id,
        "pad_token": tokenizer.pad_token,
    }


def _checked_pixels(name: str, source: Any) -> dict[str, Any]:
    """`_pixels`, tried on a picture; ValueError where the encoder itself is shown others."""
    try:
        how = _pixels(source.processor)
        apart = _apart(how, source)
    except (AttributeError, KeyError, TypeError):  # a number that the card needs is not there
        apart = np.inf
    if not apart <= _MOST_APART:
        kind = type(source.processor).__name__
        raise ValueError(
            f"{name}: its {kind} does more to a picture than resize, scale and normalise it (crops "
            "it, say), leaves some of that out, or resizes it otherwise than Pillow: such a "
            "preparation cannot be written on the card; train with another backbone to export it"
        )
    return how


def _apart(how: dict[str, Any], source: Any) -> float:
    """The greatest distance of the card's pixels from the encoder's, of black to white 1."""
    waves = 0.5 + 0.4 * np.sin(np.arange(SIZE) / 16)
    rising, falling = np.meshgrid(waves, np.linspace(0.9, 0.1, SIZE))
    shown = np.stack([rising, falling, rising.T], axis=-1)
    picture = Image.fromarray((255 * shown).astype(np.uint8))
    height, width = how["size"]
    resized = picture.resize((width, height), Image.Resampling[how["resample"].upper()])
    pixels = (np.asarray(resized) * how["scale"] - how["mean"]) / how["std"]
    prepared = source.prepare([picture])
    own = np.asarray(prepared["pixel_values"] if isinstance(prepared, dict) else prepared)[0]
    if own.shape != (3, height, width):
        return float("inf")
    return float(np.abs((own.transpose(1, 2, 0) - pixels) * how["std"]).max())


def _pixels(processor: Any) -> dict[str, Any]:
    """Size, resampling, mean and deviation, as the processor has them."""
    timm = getattr(processor, "data_config", None)
    if timm is not None:
        return {
            "size": list(timm["input_size"][1:]),
            "resample": timm["interpolation"],
            "mean": list(timm["mean"]),
            "std": list(timm["std"]),
            "scale": 1 / 255,
        }
    size: Any = processor.size
    get = size.get if hasattr(size, "get") else lambda key: getattr(size, key, None)
    side = get("shortest_edge")
    names = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
    return {
        "size": [side, side] if side else [get("height"), get("width")],
        "resample": names[int(processor.resample)],
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
        "scale": float(processor.rescale_factor),
    }


def _decision(decision: DecisionBundle) -> dict[str, Any]:
    policy = decision.policy
    return {
        "temperatures": decision.temperatures,
        "threshold": decision.thresholds["mm_fusion"],
        "allow_below": policy.allow,
        "block_from": policy.block,
    }


def main() -> None:
    """Write the models' graph, tokenizers and card for other languages."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.serving.engines.export", description=main.__doc__
    )
    parser.add_argument("--mode", choices=("pilot", "full"), default="pilot")
    parser.add_argument("--root", type=Path, help="folder of the run; default: the project's")
    options = parser.parse_args()
    try:
        settings = Settings.model_validate({"mode": options.mode, "root": options.root})
        settings.guide()
        print(f"written: {export(settings)}")
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
