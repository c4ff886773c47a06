"""The one way from a picture file to the pixels that training and serving see."""

import contextlib
import io
import math
import os
import struct
from pathlib import Path
from typing import BinaryIO

import imagehash
import numpy as np
from PIL import ExifTags, Image, ImageOps

SIZE = 384
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
# Pillow warns from here on and refuses from twice here on; a picture this large is refused at once
MAX_PIXELS = 89_478_485
# The colour that the backbones' normalisation (mean = std = 0.5) turns into zero
PADDING = (128, 128, 128)
# Grey levels; a flatter picture has no layout to hash, and all such pictures would look alike
_FLAT = 2.0
# Rows of a transparent picture that are laid over white at once
_BAND = 64


def load_picture(source: str | Path | bytes | BinaryIO | Image.Image) -> Image.Image:
    """Open a picture as upright 8-bit RGB: transparency over white, the first frame if animated.

    Raises FileNotFoundError, or ValueError naming `source` and the reason if it is not a picture
    of one of `FORMATS`, is empty, broken or truncated, or has more than `MAX_PIXELS` pixels.
    """
    name = source if isinstance(source, str | Path) else "picture"
    # Unlike Path.is_file it knows that there is no file of a name of 5,000 characters.
    if isinstance(source, str | Path) and not os.path.isfile(source):
        slashes = os.path.isfile(str(source).replace("\\", "/"))
        hint = "; with / in place of \\ there is one" if slashes else ""
        raise FileNotFoundError(f"{name or repr(name)}: there is no such picture file{hint}")
    try:
        if isinstance(source, Image.Image):
            return _checked(source)
        with Image.open(_file(source), formats=_supported()) as image:
            return _checked(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(
            f"{name}: more than {MAX_PIXELS} pixels (a decompression bomb?); make it smaller"
        ) from None
    except Image.UnidentifiedImageError:
        raise ValueError(
            f"{name}: not a picture of a known format ({', '.join(FORMATS)})"
        ) from None
    except Exception as error:  # decoders raise whatever they meet in broken bytes
        raise ValueError(f"{name}: broken or truncated picture ({error})") from None


def letterbox(image: Image.Image, size: int = SIZE) -> Image.Image:
    """Fit an RGB image into size x size pixels without cropping, the rest padded mid-grey.

    Overlaid text sits at the edges of a meme: cropping would cut it off.
    """
    return ImageOps.pad(shrunk_line(image, size), (size, size), color=PADDING)


def shrunk_line(image: Image.Image, size: int) -> Image.Image:
    """A line of pixels, whose shorter side would round to none in `size` pixels, `size` x 1.

    Any other picture is left as it is.
    """
    if min(image.size) >= math.ceil(max(image.size) / size):
        return image
    return image.resize((size, 1) if image.width > image.height else (1, size))


def blank_picture(size: int = SIZE) -> Image.Image:
    """What the models are shown where a meme has no picture: nothing but the padding's grey."""
    return Image.new("RGB", (size, size), PADDING)


def picture_hash(picture: Image.Image) -> int | None:
    """The 64-bit perceptual hash (pHash: signs of low DCT frequencies), None for a flat picture."""
    thumbnail = picture.convert("L").resize((32, 32), Image.Resampling.BOX)
    if np.asarray(thumbnail, dtype=float).std() < _FLAT:
        return None
    bits = imagehash.phash(picture).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _file(source: str | Path | bytes | BinaryIO) -> str | Path | BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, str | Path) or hasattr(source, "read"):
        return source
    raise TypeError(f"{type(source).__name__} instead of a path, bytes or a PIL image")


def _checked(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if not image.width * image.height:
        raise ValueError(f"{image.width} x {image.height} pixels")
    return _to_rgb(image)


def _supported() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    # A camera's broken EXIF block says nothing about the pixels
    with contextlib.suppress(OSError, ValueError, SyntaxError, struct.error, KeyError, TypeError):
        # Pillow copies a picture that it does not turn, too
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _from_deep(image)
    return _over_white(image) if image.has_transparency_data else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Some rows at a time: three copies of the whole would take twelve bytes a pixel."""
    flat = Image.new("RGB", image.size)
    for top in range(0, image.height, _BAND):
        box = (0, top, image.width, min(top + _BAND, image.height))
        band = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", band.size, "white")
        flat.paste(Image.alpha_composite(white, band).convert("RGB"), box)
    return flat


def _from_deep(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey from its full range; 32-bit and float have none, so from their extremes."""
    pixels = np.asarray(image)
    low, high = float(pixels.min()), float(pixels.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("it holds numbers that are not finite")
    if image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scale = 255.0 / max(high - low, 1e-12)
    grey = np.empty(pixels.shape, np.uint8)
    # A row at a time: as a whole it would take many times the picture's memory.
    for row, deep in zip(grey, pixels, strict=True):
        row[:] = ((deep.astype(np.float64) - low) * scale).round()
    return Image.fromarray(grey).convert("RGB")
