"""Image files and sizes, by Pillow."""

import os

import numpy as np


def decode_image(path: str | os.PathLike[str], shape: tuple[int, ...], *, invert: bool = False) -> np.ndarray:
    """Reads an image file as a model's input before `preprocess`, see `Dataset.raw_image_shape`.

    Turned as its EXIF orientation says, transparency over black, in grey or RGB, and resized (bilinear, antialiased).

    Args:
        path: of a file in a format that Pillow reads.
        shape: (height, width, channels) wanted, with 1 or 3 channels.
        invert: swaps dark and light, e.g. for black digits on white paper.

    Returns:
        float32 [height, width, channels] in [0, 1].

    Raises:
        ValueError: if there is no such file, if it cannot be read as an image, or if the shape is not possible.
    """
    from PIL import Image, ImageOps

    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(f"an image file is decoded to a shape (height, width, 1 or 3 channels); got {shape}")
    height, width, channels = shape
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16"):  # convert() would clip the 16 bits, not scale them
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
            image = image.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read {os.fspath(path)!r} as an image: {error}") from error
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32).reshape(shape) / 255
    return 1 - pixels if invert else pixels


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [height, width, 1 or 3] to another (height, width), bilinear and antialiased."""
    from PIL import Image

    height, width = size
    channels = image.shape[-1]
    whole = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, channels)
