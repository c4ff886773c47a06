"""The words on a picture, read by the PP-OCR models that come packaged with rapidocr.

Nothing is downloaded: the engine is given the packaged files by their paths. The extra `ocr`
installs it.
"""

import functools
import os
import re
import sys
import threading
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from lib.data.pictures import PADDING, shrunk_line
from lib.data.reading_order import reading_order

# Lines that the recogniser is less sure of are most often no letters at all, or misread.
LEAST_CONFIDENCE = 0.8
# Pixels; letters of a larger picture are legible in a smaller one.
LARGEST_SIDE = 1280
# The detector blows the shorter side up to 736 pixels, so a strip would become enormous.
_THINNEST = 4
# A line that is an address and nothing else is the stamp of the site that made the meme.
_STAMP = re.compile(
    r"(https?://)?([\w-]+\.)+(com|net|org|info|io|me|tv|co|ru|de)(/\S*)?", re.IGNORECASE
)
_PARTS = ("Det", "Cls", "Rec")
_one_at_a_time = threading.Lock()


def read_text(image: Image.Image) -> str:
    """The words on an RGB picture, in the order of reading, a space between lines; "" for none.

    Left out are lines read with a confidence below `LEAST_CONFIDENCE`, and web addresses that have
    a line to themselves. The same picture gives the same text. Threads may call it and take turns.
    Raises ValueError if the extra `ocr` is not installed, or if the engine fails.
    """
    pixels = np.asarray(_sized(image.convert("RGB")))
    with _one_at_a_time:
        engine = engine_of_ocr()
        try:
            # In OpenCV's order: blue, green, red
            found = engine(np.ascontiguousarray(pixels[:, :, ::-1]))
        except Exception as error:  # the engine raises whatever its parts do
            raise ValueError(f"the text could not be read off the picture ({error})") from None
    if not found.txts:
        return ""
    order = reading_order(np.asarray(found.boxes, dtype=float))
    # The recogniser knows Chinese, and writes some punctuation at the width of its characters.
    lines = (unicodedata.normalize("NFKC", found.txts[place]).strip() for place in order)
    return " ".join(" ".join(line for line in lines if not _STAMP.fullmatch(line)).split())


def _sized(image: Image.Image) -> Image.Image:
    """At most `LARGEST_SIDE` pixels a side, and no strip: padded at the right or the foot."""
    if max(image.size) > LARGEST_SIDE:
        image = ImageOps.contain(shrunk_line(image, LARGEST_SIDE), (LARGEST_SIDE, LARGEST_SIDE))
    least = max(32, -(-max(image.size) // _THINNEST))
    if min(image.size) >= least:
        return image
    canvas = Image.new("RGB", (max(image.width, least), max(image.height, least)), PADDING)
    canvas.paste(image)
    return canvas


@functools.cache
def engine_of_ocr() -> Any:
    """The detector, the classifier of lines upside down, and the recogniser, made once.

    Raises ValueError if the extra `ocr` is not installed.
    """
    try:
        import onnxruntime  # noqa: F401  (rapidocr asks for it only when a model is loaded)
        import rapidocr
    except ImportError as error:
        raise ValueError(
            "to read the text off a picture install the extra ocr: "
            f"pip install 'calibrated-memes[ocr]' ({error})"
        ) from None
    threads = _threads()
    options = {
        "Global.log_level": "critical",
        "Global.text_score": LEAST_CONFIDENCE,
        "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    models = Path(rapidocr.__file__).parent / "models"
    options |= {f"{part}.model_path": _packaged(models, part.lower()) for part in _PARTS}
    return rapidocr.RapidOCR(params=options)


def _packaged(models: Path, part: str) -> str:
    found = sorted(models.glob(f"*_{part}_*.onnx"))
    if not found:
        raise ValueError(
            f"{models} has no model *_{part}_*.onnx; install it again: "
            "pip install --force-reinstall 'calibrated-memes[ocr]'"
        )
    return str(found[0])


def _threads() -> int:
    """As many as PyTorch takes here, or would take: `OMP_NUM_THREADS`, else the cores."""
    if (torch := sys.modules.get("torch")) is not None:
        return torch.get_num_threads()
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else os.cpu_count() or 1
