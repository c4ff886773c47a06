"""A client as another language would write it, from the card alone: no PyTorch, nothing of ours.

    python client_without_torch.py FOLDER < memes.json > answers.json

`memes.json` is a list of [text, picture file].
"""

import json
import math
import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

for refused in ("torch", "transformers", "lib", "sklearn"):
    sys.modules[refused] = None

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
from PIL import Image  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

RESAMPLE = {"bicubic": Image.BICUBIC, "bilinear": Image.BILINEAR}
MARKER = re.compile(r"\[/?(OCR|CAP|ASR)\]|<lang=.*")


def main() -> None:
    folder = Path(sys.argv[1])
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(folder / card["graph"]["file"]))
    memes = json.load(sys.stdin)
    texts = [card["text_form"].replace("the overlaid text", " ".join(t.split())) for t, _ in memes]
    pictures = [letterboxed(Image.open(file).convert("RGB"), card["picture"]) for _, file in memes]
    given = {}
    for name, how in card["preparation"].items():
        if how["modality"] == "vision":
            given[how["input"]] = np.stack([pixels(picture, how) for picture in pictures])
        elif "pad_id" in how:
            led = "" if name == "text_expert" else f"{name}_"
            given |= {led + key: value for key, value in tokens(texts, how, folder).items()}
        else:
            model = json.loads((folder / how["file"]).read_text(encoding="utf-8"))
            shown = [words(text).lower() for text in texts]
            given[how["input"]] = np.array([score(text, model) for text in shown], np.float32)
    wanted = {entry.name for entry in session.get_inputs()}
    found = session.run(list(card["outputs"]), {k: v for k, v in given.items() if k in wanted})
    json.dump(answers(dict(zip(card["outputs"], found, strict=True)), card["decision"]), sys.stdout)


def words(text: str) -> str:
    return " ".join(word for word in text.split() if not MARKER.fullmatch(word))


def tokens(texts: list[str], how: dict, folder: Path) -> dict[str, np.ndarray]:
    tokenizer = Tokenizer.from_file(str(folder / how["file"]))
    tokenizer.enable_truncation(how["max_length"])
    length = how["max_length"] if how["padding"] == "max_length" else None
    tokenizer.enable_padding(pad_id=how["pad_id"], pad_token=how["pad_token"], length=length)
    shown = [words(text) if how["markers"] == "drop" else text for text in texts]
    encoded = tokenizer.encode_batch([text.lower() if how["lower"] else text for text in shown])
    return {
        "input_ids": np.array([e.ids for e in encoded], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encoded], np.int64),
        "token_type_ids": np.array([e.type_ids for e in encoded], np.int64),
    }


def letterboxed(picture: Image.Image, how: dict) -> Image.Image:
    size = how["size"]
    if picture.width > picture.height:
        fitted = size, round(picture.height / picture.width * size)
    else:
        fitted = round(picture.width / picture.height * size), size
    box = Image.new("RGB", (size, size), tuple(how["padding"]))
    resized = picture.resize(fitted, RESAMPLE[how["resample"]])
    box.paste(resized, (round((size - fitted[0]) * 0.5), round((size - fitted[1]) * 0.5)))
    return box


def pixels(picture: Image.Image, how: dict) -> np.ndarray:
    height, width = how["size"]
    array = np.asarray(picture.resize((width, height), RESAMPLE[how["resample"]]), np.float32)
    array = (array * np.float32(how["scale"]) - np.float32(how["mean"])) / np.float32(how["std"])
    return array.transpose(2, 0, 1).astype(np.float32)


def score(text: str, model: dict) -> float:
    found = re.findall(r"\b\w\w+\b", text)
    pairs = [f"{a} {b}" for a, b in pairwise(found)]
    padded = [f" {word} " for word in text.split()]
    runs = [w[k : k + n] for w in padded for n in range(2, 6) for k in range(len(w) - n + 1)]
    total = model["bias"]
    for kind, grams in (("words", found + pairs), ("letters", runs)):
        counts = Counter(gram for gram in grams if gram in model[kind])
        values = {g: (1 + math.log(n)) * model[kind][g][0] for g, n in counts.items()}
        length = math.sqrt(sum(value**2 for value in values.values())) or 1.0
        total += sum(value / length * model[kind][g][1] for g, value in values.items())
    return total


def answers(logits: dict[str, np.ndarray], how: dict) -> list[dict]:
    found = []
    for row in range(len(logits["mm_fusion"])):
        margin = {m: float(z[row, 1]) - float(z[row, 0]) for m, z in logits.items()}
        prob = {m: 1 / (1 + math.exp(-x / how["temperatures"][m])) for m, x in margin.items()}
        p = prob["mm_fusion"]
        decision = "review"
        if how["block_from"] is not None and p >= how["block_from"]:
            decision = "block"
        elif how["allow_below"] is not None and p < how["allow_below"]:
            decision = "allow"
        found.append({"prob": prob, "label": int(p >= how["threshold"]), "decision": decision})
    return found


if __name__ == "__main__":
    main()
