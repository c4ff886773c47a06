"""Ways to change an RGB picture of a meme, each with a level; size and mode stay.

Where ImageNet-C (Hendrycks and Dietterich 2019, Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations) has the same, its severities 1, 3 and 5 are taken, radii in pixels of
a picture 224 wide.
"""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from lib.data.pictures import PADDING

CAPTION = "when you see it again on a monday"
STATUS = "12:41        87%"

Rng = np.random.Generator


def jpeg(image: Image.Image, rng: Rng, quality: float) -> Image.Image:
    """Saved as JPEG of a quality from 1 to 100."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(quality))
    return Image.open(buffer).convert("RGB")


def blur(image: Image.Image, rng: Rng, sigma: float) -> Image.Image:
    """Gaussian blur of `sigma` pixels of a picture 224 wide."""
    return image.filter(ImageFilter.GaussianBlur(sigma * image.width / 224))


def noise(image: Image.Image, rng: Rng, sigma: float) -> Image.Image:
    """Gaussian noise of standard deviation `sigma` on channels in [0, 1]."""
    pixels = np.asarray(image, dtype=np.float32) / 255
    pixels += sigma * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))


def brightness(image: Image.Image, rng: Rng, more: float) -> Image.Image:
    """The value of HSV raised by `more` of its range."""
    hue, saturation, value = image.convert("HSV").split()
    lighter = value.point([min(255, round(v + 255 * more)) for v in range(256)])
    return Image.merge("HSV", (hue, saturation, lighter)).convert("RGB")


def resize(image: Image.Image, rng: Rng, share: float) -> Image.Image:
    """Shrunk to a share of its sides and blown up again, both by boxes (ImageNet-C: pixelate)."""
    small = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    box = Image.Resampling.BOX
    return image.resize(small, box).resize(image.size, box)


def crop(image: Image.Image, rng: Rng, share: float) -> Image.Image:
    """A share of each side lost, somewhere around the rest, which then fills the picture."""
    width, height = (max(1, round(side * (1 - share))) for side in image.size)
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    box = (left, top, left + width, top + height)
    return image.resize(image.size, Image.Resampling.BILINEAR, box)


def flip(image: Image.Image, rng: Rng, kind: float) -> Image.Image:
    """1: left to right; 2: upside down; 3: both, that is, turned by 180 degrees."""
    if kind != 2:
        image = ImageOps.mirror(image)
    return image if kind == 1 else ImageOps.flip(image)


def screenshot(image: Image.Image, rng: Rng, share: float) -> Image.Image:
    """Seen on a telephone: the picture smaller, dark bars above and below that share the height."""
    width, height = image.size
    bar = round(height * share / 2)
    screen = Image.new("RGB", image.size, (18, 18, 18))
    inner = ImageOps.contain(image, (width, max(1, height - 2 * bar)))
    screen.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    size = max(6, round(bar * 0.5))
    draw = ImageDraw.Draw(screen)
    draw.text((size, bar // 4), STATUS, fill=(230, 230, 230), font=ImageFont.load_default(size))
    return screen


def caption(image: Image.Image, rng: Rng, share: float) -> Image.Image:
    """A white band with a harmless sentence over a share of the height, at the foot."""
    covered = image.copy()
    top = round(image.height * (1 - share))
    draw = ImageDraw.Draw(covered)
    draw.rectangle((0, top, image.width, image.height), fill=(255, 255, 255))
    font = ImageFont.load_default(max(6, image.width / 20))
    draw.text((image.width // 20, top + 2), CAPTION, fill=(0, 0, 0), font=font)
    return covered


def grey(image: Image.Image, rng: Rng, share: float) -> Image.Image:
    """A share of the colour lost."""
    return Image.blend(image, ImageOps.grayscale(image).convert("RGB"), share)


def removed(image: Image.Image, rng: Rng, share: float) -> Image.Image:
    """Plain grey in its place."""
    return Image.new("RGB", image.size, PADDING)
