"""The pictures of the generated memes: a pictogram in a scene, with the text drawn over it.

Pictograms: Font Awesome Free (icons CC BY 4.0, fonts SIL OFL 1.1). Lettering: DejaVu.
"""

import colorsys
import functools
import itertools
import textwrap
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from lib.data.confounders.vocabulary import fontawesome, icons

SIZE = 384


@dataclass(frozen=True)
class Picture:
    """A pictogram in a scene; `seed` draws everything about the scene but the pictogram."""

    pictogram: str
    polarity: str
    seed: tuple[int, ...]


def render(picture: Picture, text: str) -> Image.Image:
    """Draw one meme: 384x384 RGB, the same for the same arguments."""
    rng = np.random.default_rng(picture.seed)
    canvas = _scene(rng)
    _paste_sticker(canvas, _posed(_glyph(picture.pictogram), rng), rng)
    canvas = _film(canvas, rng)
    upper, lower = text.split("|")
    _letter(canvas, upper, at_top=True)
    _letter(canvas, lower, at_top=False)
    return canvas


def _scene(rng: np.random.Generator) -> Image.Image:
    scenes = (_sunburst, _hills, _room, _sea, _city, _bokeh)
    sharp = scenes[rng.integers(len(scenes))](rng)
    # Out of focus and pale, as behind the subject of a photograph
    pale = ImageEnhance.Contrast(ImageEnhance.Color(sharp).enhance(0.6)).enhance(0.75)
    return pale.filter(ImageFilter.GaussianBlur(4))


def _sunburst(rng: np.random.Generator) -> Image.Image:
    x, y = _grid()
    angle = np.arctan2(y - rng.uniform(0.4, 0.6), x - rng.uniform(0.4, 0.6))
    rays = np.floor(angle / np.pi * rng.integers(6, 13) + rng.uniform()) % 2
    hue = rng.uniform()
    return _blend(rays, _rgb(hue, 0.55, 0.85), _rgb(hue + rng.uniform(-0.1, 0.1), 0.6, 0.6))


def _hills(rng: np.random.Generator) -> Image.Image:
    canvas = _sky(rng)
    draw = ImageDraw.Draw(canvas)
    x0, y0, r = rng.uniform(40, 340), rng.uniform(70, 150), rng.uniform(20, 45)
    draw.ellipse((x0 - r, y0 - r, x0 + r, y0 + r), fill=_rgb(rng.uniform(0.08, 0.17), 0.3, 0.97))
    hue, x = rng.uniform(), np.arange(0, SIZE + 1, 4)
    for layer in range(3):
        waves = sum(
            rng.uniform(4, 22) * np.sin(x / rng.uniform(25, 90) + rng.uniform(0, 7))
            for _ in range(3)
        )
        ridge = np.asarray(SIZE * (0.55 + 0.15 * layer) + waves)
        points = [*zip(x.tolist(), ridge.tolist(), strict=True), (SIZE, SIZE), (0, SIZE)]
        draw.polygon(points, fill=_rgb(hue + 0.03 * layer, 0.5, 0.75 - 0.16 * layer))
    return canvas


def _room(rng: np.random.Generator) -> Image.Image:
    x, y = _grid()
    pattern = (x * rng.integers(8, 22)) % 1 < 0.5
    if rng.uniform() < 0.5:
        pattern = pattern ^ ((y * rng.integers(8, 22)) % 1 < 0.5)
    hue = rng.uniform()
    canvas = _blend(pattern, _rgb(hue, 0.3, 0.85), _rgb(hue, 0.35, 0.78))
    floor = int(SIZE * rng.uniform(0.66, 0.78))
    draw = ImageDraw.Draw(canvas)
    wood = rng.uniform(0.03, 0.12)
    draw.rectangle((0, floor, SIZE, SIZE), fill=_rgb(wood, 0.55, 0.55))
    for x0 in range(-SIZE, 2 * SIZE, 48):
        draw.line((SIZE / 2 + (x0 - SIZE / 2) / 2, floor, x0, SIZE), fill=_rgb(wood, 0.6, 0.45))
    draw.rectangle((0, floor - 8, SIZE, floor), fill=_rgb(hue, 0.1, 0.95))
    return canvas


def _sea(rng: np.random.Generator) -> Image.Image:
    canvas = _sky(rng)
    draw = ImageDraw.Draw(canvas)
    horizon, shore = SIZE * rng.uniform(0.4, 0.55), SIZE * rng.uniform(0.68, 0.8)
    hue = rng.uniform(0.45, 0.65)
    draw.rectangle((0, horizon, SIZE, SIZE), fill=_rgb(hue, 0.6, 0.65))
    for _ in range(30):
        x0, y0, length = rng.uniform(0, SIZE), rng.uniform(horizon, shore), rng.uniform(10, 60)
        draw.line((x0, y0, x0 + length, y0), fill=_rgb(hue, 0.35, 0.85), width=2)
    x = np.arange(0, SIZE + 1, 4)
    edge = shore + 8 * np.sin(x / rng.uniform(30, 80) + rng.uniform(0, 7))
    points = [*zip(x.tolist(), edge.tolist(), strict=True), (SIZE, SIZE), (0, SIZE)]
    draw.polygon(points, fill=_rgb(0.11, 0.35, rng.uniform(0.75, 0.95)))
    return canvas


def _city(rng: np.random.Generator) -> Image.Image:
    canvas = _sky(rng)
    draw = ImageDraw.Draw(canvas)
    hue, ground, x = rng.uniform(), SIZE * rng.uniform(0.72, 0.85), -10
    while x < SIZE:
        width, top = int(rng.uniform(35, 80)), SIZE * rng.uniform(0.25, 0.6)
        draw.rectangle((x, top, x + width, ground), fill=_rgb(hue, 0.3, rng.uniform(0.25, 0.5)))
        for x0, y0 in itertools.product(
            range(x + 6, x + width - 6, 12), range(int(top) + 8, int(ground) - 8, 16)
        ):
            if rng.uniform() < 0.4:
                draw.rectangle((x0, y0, x0 + 5, y0 + 7), fill=_rgb(0.14, 0.45, 0.95))
        x += width + int(rng.uniform(0, 8))
    draw.rectangle((0, ground, SIZE, SIZE), fill=_rgb(rng.uniform(), 0.12, 0.4))
    return canvas


def _bokeh(rng: np.random.Generator) -> Image.Image:
    canvas = _sky(rng)
    for _ in range(14):
        spot, r = Image.new("L", canvas.size), rng.uniform(12, 50)
        x0, y0 = rng.uniform(0, SIZE, 2)
        ImageDraw.Draw(spot).ellipse(
            (x0 - r, y0 - r, x0 + r, y0 + r), fill=int(rng.uniform(60, 140))
        )
        canvas.paste(_rgb(rng.uniform(), 0.4, 1.0), mask=spot)
    return canvas.filter(ImageFilter.GaussianBlur(3))


def _sky(rng: np.random.Generator) -> Image.Image:
    _, y = _grid()
    hue = rng.uniform()
    low = _rgb(hue + rng.uniform(-0.12, 0.12), rng.uniform(0.15, 0.45), rng.uniform(0.7, 1.0))
    return _blend(y, low, _rgb(hue, rng.uniform(0.4, 0.7), rng.uniform(0.45, 0.9)))


def _film(canvas: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add the grain and the dark corners of a photograph."""
    x, y = _grid()
    shade = 1 - 0.35 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)[..., None]
    grain = rng.normal(0, 5, (SIZE, SIZE, 1))
    return Image.fromarray(np.clip(np.asarray(canvas) * shade + grain, 0, 255).astype(np.uint8))


def _paste_sticker(canvas: Image.Image, mask: Image.Image, rng: np.random.Generator) -> None:
    """Paste a shaded pictogram with a white rim, its shadow on the ground below it."""
    margin = 16
    mask = ImageOps.expand(mask, margin)
    width, height = mask.size
    left = round(SIZE / 2 + rng.uniform(-15, 15) - width / 2)
    top = round(SIZE / 2 - 4 - height / 2)

    ground = Image.new("L", canvas.size)
    foot = top + height - margin
    ImageDraw.Draw(ground).ellipse((left + 20, foot - 8, left + width - 20, foot + 16), fill=130)
    canvas.paste((10, 10, 20), mask=ground.filter(ImageFilter.GaussianBlur(7)))

    # A blurred mask made steep again is a grown one with a smooth edge.
    rim = mask.filter(ImageFilter.GaussianBlur(4)).point(lambda v: min(255, 8 * v))
    shadow = rim.filter(ImageFilter.GaussianBlur(4)).point(lambda v: v // 2)
    canvas.paste((0, 0, 0), (left + 4, top + 5), shadow)
    canvas.paste((250, 250, 250), (left, top), rim)
    canvas.paste(_shaded(mask, rng), (left, top), mask)


def _shaded(mask: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Colour a mask from a lighter top to a darker foot, edges lit from the upper left."""
    hue, saturation = rng.uniform(), rng.uniform(0.5, 0.9)
    light, dark = (np.array(_rgb(hue, saturation, v)) for v in (0.85, 0.45))
    down = np.linspace(0, 1, mask.height)[:, None, None]
    soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(3)), dtype=float)
    lit = np.roll(soft, (-3, -3), (0, 1)) - np.roll(soft, (3, 3), (0, 1))
    colour = light + (dark - light) * down + 0.25 * lit[..., None]
    return Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8))


def _letter(canvas: Image.Image, text: str, at_top: bool) -> None:
    """Write capitals, condensed, white with a black edge, as high as fits the width."""
    lines = textwrap.wrap(text.upper(), 24)
    if len(lines) > 1:
        lines = textwrap.wrap(text.upper(), 5 + len(text) // len(lines))
    height = 36 if len(lines) == 1 else 29
    for number, line in enumerate(lines):
        tile = _line_of_text(line)
        scale = height / tile.height
        width = min(round(0.72 * scale * tile.width), SIZE - 16)
        tile = tile.resize((width, height), Image.Resampling.LANCZOS)
        y = 4 + number * height if at_top else SIZE - 4 - (len(lines) - number) * height
        canvas.paste(tile, ((SIZE - width) // 2, y), tile)


def _line_of_text(line: str) -> Image.Image:
    font = _font(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans-Bold.ttf"), 64)
    ascent = int(font.getbbox("X", anchor="ls")[1])
    tile = Image.new("RGBA", (round(font.getlength(line)) + 16, 16 - ascent))
    ImageDraw.Draw(tile).text(
        (8, 8 - ascent),
        line,
        font=font,
        anchor="ls",
        fill="white",
        stroke_width=6,
        stroke_fill="black",
    )
    return tile


def _glyph(pictogram: str) -> Image.Image:
    """Return the shape of a pictogram, white on black, cut to its bounds."""
    character = chr(int(icons()[pictogram]["unicode"], 16))
    font = _font(fontawesome("webfonts/fa-solid-900.ttf"), 256)
    left, top, right, bottom = map(int, font.getbbox(character))
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), character, font=font, fill=255)
    return mask


def _posed(mask: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Scale a shape to the room between the lines, mirror half of them, tilt it a little."""
    height = rng.uniform(215, 235)
    scale = min(height / mask.height, 1.35 * height / mask.width)
    mask = mask.resize((round(mask.width * scale), round(mask.height * scale)))
    mask = ImageOps.mirror(mask) if rng.uniform() < 0.5 else mask
    return mask.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC, expand=True)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    return x, y


def _blend(weight: np.ndarray, one: tuple, zero: tuple) -> Image.Image:
    pixels = np.array(zero) + weight[..., None] * (np.array(one) - np.array(zero))
    return Image.fromarray(pixels.astype(np.uint8))


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


@functools.cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)
