import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage.color import hsv2rgb, rgb2hsv

from lib.data import picture_attacks as changes
from lib.decisions.perturbations import IMAGE_PERTURBATIONS, SEVERITIES

CASES = [(name, severity) for name, p in IMAGE_PERTURBATIONS.items() for severity in p.levels]


@pytest.fixture(scope="module")
def picture():
    """Smooth colours with a sharp edge, as of a photograph with a border."""
    x, y = np.meshgrid(np.linspace(0, 1, 96), np.linspace(0, 1, 96))
    pixels = np.stack([x, y, 0.5 + 0.3 * np.sin(9 * x * y)], axis=2) * 255
    pixels[30:40] = 20
    return Image.fromarray(pixels.astype(np.uint8))


def rng():
    return np.random.default_rng(0)


def distance(a, b):
    return np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()


@pytest.mark.parametrize(("name", "severity"), CASES)
def test_pictures_change_and_keep_size_and_mode(name, severity, picture):
    before = picture.tobytes()
    found = IMAGE_PERTURBATIONS[name](picture, rng(), severity)
    assert (found.size, found.mode) == (picture.size, "RGB")
    assert found.tobytes() != before == picture.tobytes()
    assert found.tobytes() == IMAGE_PERTURBATIONS[name](picture, rng(), severity).tobytes()


# Each severity of a flip is another one.
GRADED = [n for n, p in IMAGE_PERTURBATIONS.items() if len(p.levels) == 3 and n != "image: flip"]


@pytest.mark.parametrize("name", GRADED)
def test_a_higher_severity_changes_more(name, picture):
    found = [IMAGE_PERTURBATIONS[name](picture, rng(), severity) for severity in SEVERITIES]
    gaps = [distance(each, picture) for each in found]
    assert gaps == sorted(gaps) and gaps[0] < gaps[2]


def test_noise_has_the_stated_deviation():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    noisy = np.asarray(changes.noise(grey, rng(), 0.08), float) / 255
    assert noisy.std() == pytest.approx(0.08, rel=0.02)
    assert noisy.mean() == pytest.approx(0.5, abs=0.01)


def test_brightness_is_that_of_hsv(picture):
    hsv = rgb2hsv(np.asarray(picture) / 255)
    hsv[..., 2] = np.clip(hsv[..., 2] + 0.3, 0, 1)
    expected = hsv2rgb(hsv) * 255
    # Pillow's HSV has 256 steps.
    assert distance(changes.brightness(picture, rng(), 0.3), expected) < 3


def test_jpeg_is_what_a_reader_of_the_saved_file_sees(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=7)
    assert changes.jpeg(picture, rng(), 7).tobytes() == Image.open(buffer).tobytes()


def test_flips_are_three(picture):
    sideways, down, both = (changes.flip(picture, rng(), kind) for kind in (1, 2, 3))
    assert sideways.tobytes() == ImageOps.mirror(picture).tobytes()
    assert down.tobytes() == ImageOps.flip(picture).tobytes()
    assert both.tobytes() == picture.rotate(180).tobytes()


def test_a_caption_covers_the_foot_and_a_screenshot_shows_all(picture):
    covered = np.asarray(changes.caption(picture, rng(), 0.25))
    assert (covered[:72] == np.asarray(picture)[:72]).all()
    assert (covered[73:] == 255).mean() > 0.5
    shown = np.asarray(changes.screenshot(picture, rng(), 0.4))
    # Dark bars of 19 lines each, and the picture, smaller, between them.
    assert shown[80:].max() < 30
    smaller = np.asarray(picture.resize((58, 58)), float)
    assert distance(shown[19:77, 19:77], smaller) < 12


def test_a_crop_shows_a_part(picture):
    found = np.asarray(changes.crop(picture, rng(), 0.2), int)
    # Red rises by 255 from left to right.
    assert np.ptp(found[-1, :, 0]) == pytest.approx(0.8 * 255, abs=6)
