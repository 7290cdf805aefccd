"""Reading pictures of every kind that there is."""

import os

import numpy as np
import pytest
from PIL import Image

from data import ImageReader


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)


def save(tmp_path, image, name, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_a_picture_of_its_size_stays_as_it_is(tmp_path, pixels):
    path = save(tmp_path, pixels[..., :3], "a.png")
    read = ImageReader((6, 4)).read(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, pixels[..., :3])


def test_the_shorter_side_is_resized_and_the_centre_kept(tmp_path):
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20, 0], stripes[:, :10, 1], stripes[:, 20:, 2] = 250, 250, 250
    path = save(tmp_path, stripes, "stripes.png")
    assert (ImageReader(10).read(path) == [250, 0, 0]).all()
    half = ImageReader(10, crop=0.5).read(path)
    assert half.shape == (10, 10, 3)
    assert (half == [250, 0, 0]).all()
    squashed = ImageReader(10, squash=True).read(path)
    assert (squashed[0, [0, 5, 9]].argmax(axis=-1) == [1, 0, 2]).all()


@pytest.mark.parametrize(
    ("side", "image_size", "crop", "first"),
    [
        (8, 7, 7 / 8, 0),
        (9, 7, 7 / 9, 1),
        (10, 7, 7 / 10, 2),  # a half goes to the even side, as in torchvision
        (12, 7, 7 / 12, 2),
        (8, 7, 0.8, 0),  # 8.75 becomes 8
        (14, 9, 9 / 14, 2),  # 9 / (9 / 14) falls short of 14
    ],
)
def test_the_centre_is_the_part_that_crop_says(tmp_path, side, image_size, crop, first):
    """Of a picture that has the size before the crop already, it is pixels as they are."""
    x = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    read = ImageReader(image_size, crop=crop, channels=1).read(save(tmp_path, x, "a.png"))
    last = first + image_size
    np.testing.assert_array_equal(read[..., 0], x[first:last, first:last])


@pytest.mark.parametrize(("size", "resized"), [((8, 5), (4, 3)), ((5, 8), (3, 4)), ((9, 5), (5, 3)), ((4, 7), (3, 5))])
def test_the_longer_side_is_rounded_down(tmp_path, size, resized):
    """8 by 5 pixels are resized to 4.8 by 3, which is 4 by 3."""
    x = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    whole = np.asarray(Image.fromarray(x).resize(resized[::-1], Image.Resampling.BILINEAR))
    top, left = (round((n - 3) / 2) for n in resized)
    read = ImageReader(3, channels=1).read(save(tmp_path, x, "a.png"))
    np.testing.assert_array_equal(read[..., 0], whole[top : top + 3, left : left + 3])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 3), (3, 200)])
@pytest.mark.parametrize("wanted", [5, (4, 9), (9, 4)])
@pytest.mark.parametrize("crop", [1.0, 0.875, 0.3])
def test_any_size_becomes_the_one_wanted(tmp_path, size, wanted, crop):
    path = save(tmp_path, np.full((*size, 3), 77, np.uint8), "a.png")
    read = ImageReader(wanted, crop=crop).read(path)
    assert read.shape == ((5, 5, 3) if wanted == 5 else (*wanted, 3))
    assert (read == 77).all(), "nothing lies beyond the picture"


def test_cmyk(tmp_path):
    cmyk = Image.new("CMYK", (4, 6), (255, 0, 0, 0))
    read = ImageReader((6, 4)).read(save(tmp_path, cmyk, "cmyk.jpg"))
    assert read[0, 0, 0] < 30 < 200 < read[0, 0, 1:].min(), "cyan"


def test_palette_with_alpha_is_over_black(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    picture.putpalette([255, 255, 255, 0, 255, 0])
    path = save(tmp_path, picture, "palette.png", transparency=0)
    assert ImageReader((1, 2)).read(path).tolist() == [[[0, 0, 0], [0, 255, 0]]]


def test_sixteen_bits(tmp_path):
    path = save(tmp_path, np.array([[0, 0x80FF, 0xFFFF]], np.uint16), "deep.png")
    assert ImageReader((1, 3), channels=1).read(path).ravel().tolist() == [0, 0x80, 255]
    assert ImageReader((1, 3)).read(path)[0, 1].tolist() == [0x80] * 3


@pytest.mark.parametrize("kind", ["1", "LA", "RGBA", "I", "F", "YCbCr", "LAB"])
def test_other_kinds_of_pixels(tmp_path, pixels, kind):
    picture = Image.fromarray(pixels[..., :3]).convert("RGB" if kind == "LAB" else kind)
    path = save(tmp_path, picture, "a.tiff")
    for channels in (1, 3):
        assert ImageReader((6, 4), channels=channels).read(path).shape == (6, 4, channels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, pixels[..., :3], "turned.png", exif=exif)
    x = pixels[..., :3]
    turned = {
        1: x, 2: x[:, ::-1], 3: x[::-1, ::-1], 4: x[::-1], 5: x.swapaxes(0, 1),
        6: np.rot90(x, -1), 7: np.rot90(x, 2).swapaxes(0, 1), 8: np.rot90(x),
    }  # fmt: skip
    wanted = turned[orientation]
    np.testing.assert_array_equal(ImageReader(wanted.shape[:2]).read(path), wanted)


def test_lists_stand_for_tuples():
    assert ImageReader.of(image_size=[3, 4], mean=[0.5] * 3) == ImageReader((3, 4), mean=(0.5,) * 3)


@pytest.mark.parametrize(
    ("name", "pixels", "wanted"),
    [
        ("a.png", np.array([[0, 65535, 32768]], np.uint16), [0, 255, 128]),
        ("a.pgm", np.array([[0, 65535, 32768]], np.uint16), [0, 255, 128]),
        ("a.tif", np.array([[0, 65535, 32768]], np.int32), [0, 255, 128]),
        ("a.tif", np.array([[0, 1, 0.5]], np.float32), [0, 255, 128]),
        ("a.tif", np.array([[0, 255, 100.4]], np.float32), [0, 255, 100]),
    ],
)
def test_grey_of_more_than_eight_bits(tmp_path, name, pixels, wanted):
    Image.fromarray(pixels).save(tmp_path / name)
    reader = ImageReader(image_size=(1, 3), channels=1)
    np.testing.assert_array_equal(reader.read(tmp_path / name)[0, :, 0], wanted)


@pytest.mark.parametrize("pixels", [[[0, -1]], [[0, 1000]], [[np.nan, 0]]])
def test_floats_whose_white_is_not_known(tmp_path, pixels):
    Image.fromarray(np.array(pixels, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"cannot read .*a\.tif' as an image: its numbers go from .*; expected"):
        ImageReader(image_size=(1, 2), channels=1).read(tmp_path / "a.tif")


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"cannot read .*a\.png' as an image: it is no file"):
        ImageReader().read(tmp_path / "a.png")
