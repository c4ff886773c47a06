"""Bad and odd memes in one table, for every door: what each is, and what is to be said of it.

`ODD_MEMES` is what any door can be handed, a text and the bytes of a picture. All texts can be said
in JSON.
"""

import io
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

TEXT = "when you open the fridge again"
NOT_A_PICTURE = "not a picture of a known format"
BROKEN = "broken or truncated picture|not a picture of a known format"
TOO_LARGE = "more than 89478485 pixels"
NEITHER = "neither text nor picture"


class OddMeme(NamedTuple):
    """A meme and the pattern of its one error, None where it is to be answered."""

    name: str
    text: Any
    picture: bytes | None
    said: str | None


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int = 90, height: int = 60, mode: str = "RGB") -> Image.Image:
    """A picture of random pixels, the same at each call."""
    depth = len(Image.new(mode, (1, 1)).getbands())
    shape = (height, width, depth) if depth > 1 else (height, width)
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(width: int, height: int, rows: bytes = b"\0", extra: bytes = b"") -> bytes:
    """A grey PNG file that claims this size, whatever its rows hold."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = _chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + extra + data + _chunk(b"IEND", b"")


def _bmp_bomb() -> bytes:
    small = saved(noise(), "BMP")
    return small[:18] + struct.pack("<ii", 50_000, 50_000) + small[26:]


def _with_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return saved(noise(), "JPEG", exif=exif)


def _animated(kind: str) -> bytes:
    frames = [noise().rotate(90 * turn) for turn in range(1, 3)]
    return saved(noise(), kind, save_all=True, append_images=frames, duration=50)


def _bad_pictures() -> dict[str, tuple[bytes, str]]:
    plain, photo = saved(noise()), saved(noise(), "JPEG")
    bomb = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 80_000_000, 1))
    return {
        "plain words": (b"no picture at all", NOT_A_PICTURE),
        "zero bytes": (b"", NOT_A_PICTURE),
        "one byte": (b"\xff", NOT_A_PICTURE),
        "a thousand NULs": (bytes(1000), NOT_A_PICTURE),
        "web page": (b"<!doctype html><img src='a.png'>", NOT_A_PICTURE),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", NOT_A_PICTURE),
        "PDF": (b"%PDF-1.7\n1 0 obj", NOT_A_PICTURE),
        "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NOT_A_PICTURE),
        "ZIP": (b"PK\x03\x04" + bytes(60), NOT_A_PICTURE),
        "ICO": (saved(noise(16, 16), "ICO"), NOT_A_PICTURE),
        "PPM": (saved(noise(), "PPM"), NOT_A_PICTURE),
        "compressed PNG": (zlib.compress(plain), NOT_A_PICTURE),
        "JPEG of its magic bytes": (b"\xff\xd8\xff", BROKEN),
        "JPEG of rubbish": (photo[:20] + bytes(range(256)) * 4, BROKEN),
        "truncated JPEG": (photo[: len(photo) // 2], BROKEN),
        "truncated PNG": (plain[: len(plain) // 2], BROKEN),
        "truncated WebP": (saved(noise(), "WEBP", lossless=True)[:900], BROKEN),
        "truncated TIFF": (saved(noise(), "TIFF")[:900], BROKEN),
        "truncated BMP": (saved(noise(), "BMP")[:900], BROKEN),
        "PNG without pixels": (png(64, 64), BROKEN),
        "PNG of no width": (png(0, 64), BROKEN),
        "PNG with a flipped byte": (plain[:20] + bytes([plain[20] ^ 1]) + plain[21:], BROKEN),
        "PNG with a bomb of text": (png(8, 8, bytes(72), bomb), BROKEN),
        "PNG bomb": (png(60_000, 60_000), TOO_LARGE),
        "100 megapixels": (saved(Image.new("1", (10_000, 10_000))), TOO_LARGE),
        "BMP bomb": (_bmp_bomb(), TOO_LARGE),
    }


def _odd_pictures() -> dict[str, bytes]:
    deep = np.random.default_rng(0).integers(0, 65535, (60, 90), dtype=np.uint16)
    palette = noise().convert("P")
    return {
        "animated GIF": _animated("GIF"),
        "animated WebP": _animated("WEBP"),
        "animated PNG": _animated("PNG"),
        "pages of a TIFF": _animated("TIFF"),
        "turned by EXIF": _with_orientation(6),
        "EXIF of no meaning": _with_orientation(77),
        "broken EXIF": saved(noise(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "CMYK JPEG": saved(noise().convert("CMYK"), "JPEG"),
        "CMYK TIFF": saved(noise().convert("CMYK"), "TIFF"),
        "16-bit PNG": saved(Image.fromarray(deep)),
        "16-bit TIFF": saved(Image.fromarray(deep), "TIFF"),
        "floats in a TIFF": saved(Image.fromarray(deep.astype(np.float32)), "TIFF"),
        "palette with transparency": saved(palette, transparency=0),
        "grey with alpha": saved(noise(mode="LA")),
        "wholly transparent": saved(Image.new("RGBA", (60, 60), (0, 0, 0, 0))),
        "one bit a pixel": saved(noise().convert("1")),
        "one pixel": saved(Image.new("RGB", (1, 1))),
        "a line across": saved(noise(5000, 1)),
        "a line down": saved(noise(1, 5000)),
        "24 megapixels": saved(Image.new("L", (6000, 4000), 90)),
        "progressive JPEG": saved(noise(), "JPEG", progressive=True),
        "JPEG of quality 1": saved(noise(), "JPEG", quality=1),
        "JPEG with a tail": saved(noise(), "JPEG") + b"<script>" * 99,
        "BMP": saved(noise(), "BMP"),
    }


BAD_TEXTS: dict[str, tuple[Any, str]] = {
    "a million characters": ("x" * 1_000_000, "text has 1,000,000 characters; at most 20,000"),
    "one character too many": ("x" * 20_001, "text has 20,001 characters; at most 20,000"),
    "half a character, high": ("half \ud83d", "text is not valid Unicode.* at 5"),
    "half a character, low": ("\ude00 half", "text is not valid Unicode.* at 0"),
    "halves the wrong way round": ("\ude00\ud83d", "text is not valid Unicode.* at 0"),
    "a number": (7, "text is int"),
    "not a number": (float("nan"), "text is float"),
    "yes or no": (True, "text is bool"),
    "a list": (["a", "b"], "text is list"),
    "a dictionary": ({"text": "a"}, "text is dict"),
}

ODD_TEXTS: dict[str, str] = {
    "empty": "",
    "white space": " \t\r\n\u3000",
    "zero width": "\u200b\u200c\u200d\u2060\ufeff",
    "emoji": "\U0001f602\U0001f469\u200d\U0001f680\u2764\ufe0f",
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "turned around": "\u202egnidaer siht\u202c",
    "NUL": "a\0b",
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f\x85",
    "no characters": "\ufffe\uffff\U0010ffff",
    "marks upon marks": "a" + "\u0301" * 300,
    "20,000 characters": "x" * 20_000,
    "many words": "monday again " * 1500,
    "packed form": f"[OCR] {TEXT} [/OCR] [CAP] a cat [/CAP] <lang=en>",
    "half of the packed form": "[OCR] unfinished",
    "markers alone": "[OCR] [/OCR] [CAP] [/CAP] <lang=en>",
    "special tokens": "[CLS] [SEP] [MASK] <s> </s> <pad>",
    "HTML": "<script>alert('a')</script><img src=x onerror=a>",
    "SQL": "'; DROP TABLE memes; --",
    "a formula": "=HYPERLINK(A1)",
    "a path": "/etc/passwd",
    "placeholders": "{0} %s ${HOME} $(id) {{7*7}}",
    "JSON": '{"text": null}',
    "a word that means nothing": "null",
}

PLAIN = saved(noise(), "JPEG")


def _table() -> list[OddMeme]:
    rows = [OddMeme(f"picture: {n}", TEXT, p, said) for n, (p, said) in _bad_pictures().items()]
    rows += [OddMeme(f"picture: {n}", TEXT, p, None) for n, p in _odd_pictures().items()]
    rows += [OddMeme(f"text: {n}", text, PLAIN, said) for n, (text, said) in BAD_TEXTS.items()]
    rows += [OddMeme(f"text: {n}", text, PLAIN, None) for n, text in ODD_TEXTS.items()]
    return [
        *rows,
        OddMeme("text alone", TEXT, None, None),
        OddMeme("a number alone", 7, None, "text is int"),
        OddMeme("both missing", None, None, NEITHER),
        OddMeme("empty text alone", "", None, NEITHER),
        OddMeme("white space alone", " \n", None, NEITHER),
    ]


ODD_MEMES = _table()
