import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from skimage import data

from lib.data.pictures import PADDING, SIZE, letterbox, load_picture, picture_hash


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def red(mode="RGB", size=(40, 30)):
    image = Image.new("RGB", size, (200, 10, 10))
    return image.quantize() if mode == "P" else image.convert(mode)


def photograph():
    return Image.fromarray(data.astronaut())


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.png", "RGB", {}),
        ("a.jpg", "RGB", {"quality": 95}),
        ("a.jpg", "CMYK", {"quality": 95}),
        ("a.gif", "P", {}),
        ("a.webp", "RGB", {"lossless": True}),
        ("a.png", "P", {}),
        ("a.png", "RGBA", {}),
        ("a.bmp", "RGB", {}),
        ("a.tiff", "CMYK", {}),
    ],
)
def test_every_common_file_gives_the_same_red(tmp_path, name, mode, options):
    picture = load_picture(saved(tmp_path, red(mode), name, **options))
    assert (picture.mode, picture.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(picture, int) - (200, 10, 10)).max() <= 8


def test_paths_bytes_streams_and_pictures_are_the_same_source(tmp_path):
    path = saved(tmp_path, photograph(), "a.png")
    sources = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), photograph()]
    assert len({load_picture(source).tobytes() for source in sources}) == 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_over_white(tmp_path, mode):
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    if mode == "P":
        image, options = clear.convert("RGB").convert("P"), {"transparency": 0}
    else:
        image, options = clear.convert(mode), {}
    picture = load_picture(saved(tmp_path, image, "a.png", **options))
    assert picture.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "transparency"),
    [
        *(("RGBA", None), ("LA", None), ("P", 3), ("P", bytes(range(256)))),
        *(("L", 100), ("RGB", (7, 7, 7)), ("1", 0)),
    ],
)
def test_a_tall_transparent_picture_is_as_if_laid_over_white_whole(mode, transparency):
    values = np.random.default_rng(0).integers(0, 255, (150, 9, 4), dtype=np.uint8)
    values[::3] = 7
    drawn, file = Image.fromarray(values), io.BytesIO()
    image = drawn.convert("RGB").quantize() if mode == "P" else drawn.convert("RGB").convert(mode)
    if mode in ("RGBA", "LA"):
        image = drawn.convert(mode)
    image.save(file, "PNG", **({} if transparency is None else {"transparency": transparency}))
    whole = Image.open(io.BytesIO(file.getvalue())).convert("RGBA")
    white = Image.new("RGBA", whole.size, "white")
    expected = Image.alpha_composite(white, whole).convert("RGB")
    assert whole.getextrema()[3][0] < 255
    assert load_picture(file.getvalue()).tobytes() == expected.tobytes()


def test_half_transparent_black_is_grey(tmp_path):
    path = saved(tmp_path, Image.new("RGBA", (4, 4), (0, 0, 0, 127)), "a.png")
    assert load_picture(path).getpixel((0, 0)) == (128, 128, 128)


def test_sixteen_bits_keep_their_shades(tmp_path):
    shades = np.array([[0, 128 * 257], [64 * 257, 65535]], dtype=np.uint16)
    path = saved(tmp_path, Image.fromarray(shades), "a.png")
    grey = np.asarray(load_picture(path))[..., 0]
    assert grey.tolist() == [[0, 128], [64, 255]]


def test_floating_point_pixels_span_black_to_white(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.float32([[-1.0, 0.0, 1.0]])), "a.tiff")
    assert np.asarray(load_picture(path))[..., 0].tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(tmp_path, format_):
    later = Image.new("RGB", (40, 30), "blue")
    path = tmp_path / f"a.{format_.lower()}"
    red().save(path, format_, save_all=True, append_images=[later], duration=100)
    assert load_picture(path).getpixel((5, 5))[0] > 180


def test_orientation_of_the_camera_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, red(size=(40, 20)), "a.jpg", exif=exif)
    assert load_picture(path).size == (20, 40)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_cost_the_picture(tmp_path):
    path = saved(tmp_path, red(), "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert load_picture(path).size == (40, 30)


def png_bomb():
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


def truncated(image, format_):
    whole = io.BytesIO()
    image.save(whole, format_)
    return whole.getvalue()[: len(whole.getvalue()) // 2]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a picture"),
        (b"<html>not found</html>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (truncated(photograph(), "PNG"), "truncated"),
        (truncated(photograph(), "JPEG"), "truncated"),
        (truncated(photograph(), "WEBP"), "picture"),
        (png_bomb(), "decompression bomb"),
    ],
)
def test_what_is_not_a_whole_picture_is_one_error_naming_the_file(tmp_path, content, words):
    path = tmp_path / "meme.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        load_picture(path)
    assert "meme.png" in str(error.value)


FILES = [
    ("PNG", "RGBA"),
    ("JPEG", "CMYK"),
    ("GIF", "P"),
    ("WEBP", "RGB"),
    ("TIFF", "L"),
    ("AVIF", "RGB"),
]


@given(
    file=st.sampled_from(FILES),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4)), min_size=1, max_size=5),
)
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_a_picture_or_a_value_error(file, changes):
    stream = io.BytesIO()
    photograph().crop((0, 0, 30, 20)).convert(file[1]).save(stream, file[0])
    content = bytearray(stream.getvalue())
    for place, patch in changes:
        start = int(place * len(content))
        content[start : start + len(patch) + (not patch)] = patch
    try:
        assert load_picture(bytes(content)).mode == "RGB"
    except ValueError as error:
        assert str(error).startswith("picture: ")


def test_a_large_picture_is_refused_before_it_warns_or_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.data.pictures.MAX_PIXELS", 99)
    with pytest.raises(ValueError, match="more than 99 pixels"):
        load_picture(saved(tmp_path, red(size=(10, 10)), "a.png"))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        load_picture(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match="no such picture"):
        load_picture("a" * 5_000)


def test_a_path_with_backslashes_is_told_of_the_file_with_slashes(tmp_path):
    saved(tmp_path, red(), "a.png")
    with pytest.raises(FileNotFoundError, match=r"no such picture file; with / in place of \\ "):
        load_picture(f"{tmp_path}\\a.png")
    with pytest.raises(FileNotFoundError, match=r"no such picture file$"):
        load_picture(f"{tmp_path}\\b.png")


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((800, 400), (0, 96, 384, 288)),
        ((100, 200), (96, 0, 288, 384)),
        ((384, 384), (0, 0, 384, 384)),
        ((7, 7), (0, 0, 384, 384)),
    ],
)
def test_letterbox_keeps_everything_in_proportion(size, box):
    out = letterbox(red(size=size))
    assert out.size == (SIZE, SIZE)
    expected = Image.new("RGB", (SIZE, SIZE), PADDING)
    expected.paste((200, 10, 10), box)
    assert np.array_equal(np.asarray(out), np.asarray(expected))


# A square of the longest one's sides would fill ten gigabytes.
@pytest.mark.parametrize("size", [(5000, 1), (5000, 13), (1_000_000, 1)])
def test_letterbox_of_a_line_keeps_a_pixel_of_it(size):
    column = letterbox(red(size=size)).crop((200, 0, 201, SIZE))
    assert sorted(column.getcolors()) == [(1, (200, 10, 10)), (SIZE - 1, PADDING)]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_make_no_picture(value):
    pixels = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8).copy()
    pixels[3, 3] = value
    with pytest.raises(ValueError, match="not finite"):
        load_picture(Image.fromarray(pixels))


def test_letterbox_leaves_a_packed_picture_as_it_is():
    once = letterbox(photograph())
    assert letterbox(once).tobytes() == once.tobytes()


def distance(one, other):
    return (picture_hash(one) ^ picture_hash(other)).bit_count()


def test_hash_tells_a_copy_from_another_picture():
    original, again = photograph(), io.BytesIO()
    original.save(again, "JPEG", quality=30)
    written_on = original.copy()
    ImageDraw.Draw(written_on).text((200, 470), "when you see it", fill="white", font_size=24)
    assert distance(original, load_picture(again)) <= 6
    assert distance(original, original.resize((200, 200))) <= 6
    assert distance(original, written_on) <= 6
    assert distance(original, Image.fromarray(data.chelsea())) > 16


def test_flat_pictures_have_no_hash():
    assert picture_hash(red()) is None
    assert picture_hash(Image.new("RGB", (9, 9), "black")) is None
