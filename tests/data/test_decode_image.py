import numpy as np
import pytest
from PIL import Image

from data import decode_image


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)


def save(tmp_path, array, name, **options):
    path = tmp_path / name
    Image.fromarray(array).save(path, **options)
    return path


def test_grey(tmp_path, pixels):
    image = decode_image(save(tmp_path, pixels[..., 0], "grey.png"), (6, 4, 1))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[..., 0], pixels[..., 0] / np.float32(255))


def test_colour_and_inverted(tmp_path, pixels):
    path = save(tmp_path, pixels[..., :3], "colour.png")
    np.testing.assert_array_equal(decode_image(path, (6, 4, 3)), pixels[..., :3] / np.float32(255))
    np.testing.assert_allclose(decode_image(str(path), (6, 4, 3), invert=True), 1 - pixels[..., :3] / 255, atol=1e-6)


def test_colour_to_grey_is_luma_and_grey_to_colour_repeats(tmp_path, pixels):
    grey = decode_image(save(tmp_path, pixels[..., :3], "colour.png"), (6, 4, 1))[..., 0]
    np.testing.assert_allclose(grey, pixels[..., :3] @ [0.299, 0.587, 0.114] / 255, atol=0.6 / 255)
    colour = decode_image(save(tmp_path, pixels[..., 0], "grey.png"), (6, 4, 3))
    np.testing.assert_array_equal(colour, np.repeat(pixels[..., :1], 3, axis=2) / np.float32(255))


def test_transparency_is_over_black(tmp_path, pixels):
    image = decode_image(save(tmp_path, pixels, "rgba.png"), (6, 4, 3))
    np.testing.assert_allclose(image, pixels[..., :3] / 255 * (pixels[..., 3:] / 255), atol=1.01 / 255)


def test_palette_with_a_transparent_colour(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    picture.putpalette([255, 255, 255, 0, 255, 0])
    picture.save(tmp_path / "palette.png", transparency=0)
    assert decode_image(tmp_path / "palette.png", (1, 2, 3)).tolist() == [[[0, 0, 0], [0, 1, 0]]]


def test_sixteen_bits_are_scaled(tmp_path):
    image = decode_image(save(tmp_path, np.array([[0, 0x8000, 0xFFFF]], np.uint16), "deep.png"), (1, 3, 1))
    np.testing.assert_allclose(image.ravel(), [0, 128 / 255, 1])


def test_exif_orientation_is_honoured(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = save(tmp_path, pixels[..., 0], "turned.png", exif=exif)
    expected = np.rot90(pixels[..., 0], k=-1) / np.float32(255)
    np.testing.assert_array_equal(decode_image(path, (4, 6, 1))[..., 0], expected)


def test_jpeg_is_resized_with_antialiasing(tmp_path):
    checkers = np.kron(np.indices((32, 32)).sum(axis=0) % 2, np.ones((2, 2))).astype(np.uint8) * 255
    image = decode_image(save(tmp_path, checkers, "checkers.jpg", quality=95), (8, 8, 1))
    assert image.shape == (8, 8, 1)
    np.testing.assert_allclose(image, 0.5, atol=0.05)


def test_unreadable_files_are_named(tmp_path, pixels):
    whole = save(tmp_path, np.tile(pixels[..., :3], (50, 50, 1)), "whole.jpg")
    (tmp_path / "truncated.jpg").write_bytes(whole.read_bytes()[:-2000])
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    png = save(tmp_path, noise, "whole.png").read_bytes()
    (tmp_path / "truncated.png").write_bytes(png[: len(png) // 2])
    (tmp_path / "damaged.png").write_bytes(png[:60] + bytes(200) + png[260:])
    (tmp_path / "chunk.png").write_bytes(png[:70000] + png[70000:].replace(b"IDAT", b"m\xde<\xbd"))
    (tmp_path / "header.pgm").write_bytes(b"P5 2\xe4 3 255 123456")
    (tmp_path / "vast.pgm").write_bytes(b"P5 100000 100000 255 1")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    whole.unlink()
    (tmp_path / "whole.png").unlink()
    for path in (*tmp_path.iterdir(), tmp_path / "missing.png"):
        with pytest.raises(ValueError, match=f"cannot read '{path}' as an image"):
            decode_image(path, (6, 4, 3))


@pytest.mark.parametrize("shape", [(64,), (8, 8, 2)])
def test_impossible_shape(tmp_path, pixels, shape):
    with pytest.raises(ValueError, match="1 or 3 channels"):
        decode_image(save(tmp_path, pixels, "image.png"), shape)
