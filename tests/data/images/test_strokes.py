"""Digits that a person drew: wherever they are, however large, dark or light, they become examples like the others."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import data

READERS = {"mnist": data.StrokeReader(28, (20, 20), "mass"), "digits": data.load("digits").reader}


def drawing(path, *, side=240, scale=6, top=30, left=50, dark=False, contrast=1.0, transparent=False, noise=0.0):
    """A seven: a bar and an oblique stroke, of `scale` pixels a unit, on a page."""
    ink = np.zeros((side, side))
    ink[top : top + 2 * scale, left : left + 13 * scale] = 1
    for row in range(2 * scale, 20 * scale):
        begin = left + 11 * scale - row // 2
        ink[top + row, begin : begin + 2 * scale] = 1
    page = ink * contrast + np.random.default_rng(0).normal(0, noise, ink.shape)
    page = np.uint8(255 * np.clip(1 - page if dark else page, 0, 1))
    image = Image.fromarray(page)
    if transparent:  # black strokes on nothing
        image = Image.merge("LA", (Image.new("L", (side, side), 0), Image.fromarray(np.uint8(255 * ink))))
    image.save(path)
    return path


@pytest.fixture
def plain(tmp_path):
    return drawing(tmp_path / "plain.png")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "change",
    [
        {"top": 100, "left": 150},
        {"side": 900, "scale": 24, "top": 300, "left": 10},
        {"dark": True},
        {"dark": True, "contrast": 0.5},
        {"transparent": True},
        {"dark": True, "noise": 0.02},
    ],
    ids=str,
)
def test_place_scale_and_polarity_make_no_difference(tmp_path, plain, name, change):
    reader = READERS[name]
    wanted = reader.read(plain)
    assert wanted.shape == reader.shape
    assert wanted.min() == 0
    assert wanted.max() > 0.8
    np.testing.assert_allclose(reader.read(drawing(tmp_path / "other.png", **change)), wanted, atol=0.26)
    assert np.abs(reader.read(tmp_path / "other.png") - wanted).mean() < 0.02


def test_mnist_scales_the_longer_side_to_20_and_centres_by_mass(plain):
    strokes = READERS["mnist"].read(plain)[..., 0]
    rows, columns = (np.flatnonzero((strokes > 0.2).any(axis=axis)) for axis in (1, 0))
    assert (len(rows), len(columns)) == (20, 13)
    for axis in (0, 1):
        mass = strokes.sum(axis=1 - axis)
        assert abs((mass * np.arange(28)).sum() / mass.sum() - 14) < 0.6


def test_digits_fill_the_height_and_stand_upright(plain):
    strokes = READERS["digits"].read(plain)[..., 0]
    assert strokes.any(axis=1).all()
    assert not strokes[:, [0, 7]].any()
    y, x = np.mgrid[:8, :8]
    y, x = (axis - (strokes * axis).sum() / strokes.sum() for axis in (y, x))
    assert abs((strokes * y * x).sum()) < 0.1 * (strokes * y * y).sum()


@pytest.mark.parametrize(("name", "side"), [("digits", 8), ("mnist", 28)])
def test_a_picture_of_the_size_of_an_example_is_one(tmp_path, name, side):
    pixels = np.uint8(np.random.default_rng(0).integers(0, 255, (side, side)) * (np.indices((side, side)).min(0) > 1))
    for invert, picture in ((False, pixels), (True, 255 - pixels)):
        Image.fromarray(picture).save(tmp_path / "a.png")
        for given in (None, invert):
            found = READERS[name].read(tmp_path / "a.png", invert=given)
            np.testing.assert_allclose(found[..., 0], pixels / 255, atol=1e-6)


def test_an_empty_page_is_refused(tmp_path):
    for number, page in enumerate((np.full((50, 50), 255), np.full((50, 50), 0), np.full((50, 50), 200))):
        page[20, 20] = page[20, 20] * 0.95
        Image.fromarray(np.uint8(page)).save(tmp_path / f"{number}.png")
        with pytest.raises(ValueError, match=rf"nothing is drawn in '.*{number}\.png'"):
            READERS["mnist"].read(tmp_path / f"{number}.png")


def test_digits_of_the_set_come_back(tmp_path):
    """Enlarged twelve times, in a corner of a white page."""
    digits = data.load("digits")
    images = digits.splits["test"][np.arange(20)]["image"][..., 0]
    apart = []
    for image in images:
        large = Image.fromarray(image).resize((96, 96), Image.Resampling.BICUBIC)
        page = np.ones((300, 200), np.float32)
        page[10:106, 20:116] -= np.clip(large, 0, 1)
        Image.fromarray(np.uint8(255 * page)).save(tmp_path / "a.png")
        apart.append(np.corrcoef(digits.reader.read(tmp_path / "a.png").ravel(), image.ravel())[0, 1])
    assert np.mean(apart) > 0.75
