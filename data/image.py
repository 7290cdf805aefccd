"""Image files and sizes, by Pillow."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data.scaling import to_unit

_MOST_PIXELS = 2**26
"""Of a resized picture: one a pixel high would be stretched to gigabytes."""


@dataclass(frozen=True)
class ImageReader:
    """How image files of any size become what a model sees: resized, cropped in the centre, and scaled.

    As timm and torchvision prepare images for evaluation: the shorter side is resized (antialiased) to
    `image_size / crop`, and the central square is kept.

    Attributes:
        image_size: (height, width), or one number for both.
        crop: the part of the resized shorter side that is kept, in (0, 1].
        interpolation: of the resizing.
        squash: resizes both sides, whatever the aspect ratio, in place of the shorter one.
        mean: taken off each channel in [0, 1].
        std: what each channel is divided by afterwards.
        channels: 1 for grey or 3 for red, green and blue.

    Raises:
        ValueError: if a number is out of its range.
    """

    image_size: int | tuple[int, int] = 224
    crop: float = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    squash: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int = 3

    def __post_init__(self):
        if self.channels not in (1, 3) or min(self.shape) < 1:
            raise ValueError(f"image_size is positive and channels are 1 or 3; got {self.image_size}, {self.channels}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must be in (0, 1]; got {self.crop}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f'interpolation must be "bilinear" or "bicubic"; got {self.interpolation!r}')
        for name, value in (("mean", self.mean), ("std", self.std)):
            if value is not None and len(value) != self.channels:
                raise ValueError(f"{name} needs a number for each of {self.channels} channels; got {value}")

    @classmethod
    def of(cls, **options: Any) -> ImageReader:
        """A reader from options as JSON has them, with lists in the place of tuples."""
        lists = {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
        return cls(**{**options, **lists})

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what is read."""
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return height, width, self.channels

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """The image in a file, uint8 [height, width, channels].

        Turned as its EXIF orientation says, transparency over black, 16 bits to 8, CMYK and palettes to colours.

        Raises:
            ValueError: if there is no such file, or if it cannot be read as an image.
        """
        height, width, channels = self.shape
        image = open_image(path, channels)
        resized = _cover(image.size, (width, height), self.crop, squash=self.squash)
        if resized[0] * resized[1] > _MOST_PIXELS:
            raise ValueError(
                f"{os.fspath(path)!r} is {image.size[0]} × {image.size[1]}, which would be resized to {resized[0]} × "
                f"{resized[1]} to fill {width} × {height}; crop it, or take squash=True"
            )
        left, top = (round((whole - part) / 2) for whole, part in zip(resized, (width, height), strict=True))
        image = image.resize(resized, _filter(self.interpolation))
        return np.asarray(image.crop((left, top, left + width, top + height))).reshape(self.shape)

    def preprocess(self, batch: Any) -> Any:
        """Raw batch -> batch with float32 images, scaled to [0, 1] and by mean and std; see `Dataset.preprocess`."""
        image = to_unit(batch["image"])
        if self.mean is not None:
            image = image - np.asarray(self.mean, np.float32).reshape(1, 1, 1, -1)
        if self.std is not None:
            image = image / np.asarray(self.std, np.float32).reshape(1, 1, 1, -1)
        return {**batch, "image": image}


def _cover(size: tuple[int, int], target: tuple[int, int], crop: float, *, squash: bool) -> tuple[int, int]:
    """The size to which an image is resized so that it covers `target / crop`, sides rounded down as timm does."""
    wanted = [int(side / crop + 1e-6) for side in target]  # a quotient such as 224 / (224 / 232) may fall short
    if squash:
        return wanted[0], wanted[1]
    axis = 0 if wanted[0] * size[1] >= wanted[1] * size[0] else 1  # the side that just reaches its target
    other = max(wanted[1 - axis], int(wanted[axis] * size[1 - axis] / size[axis]))
    return (wanted[0], other) if axis == 0 else (other, wanted[1])


def open_image(path: str | os.PathLike[str], channels: int, *, ground: str = "black") -> Any:
    """The picture in a file, as Pillow's image in grey ("L") or RGB; see `ImageReader.read`.

    `ground` is the colour behind what is transparent.

    Raises:
        ValueError: if there is no such file, or if it cannot be read as an image.
    """
    from PIL import Image, ImageOps

    with _naming(path), Image.open(_regular(path)) as image:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I") or image.mode == "F":  # convert() would clip what it should scale
            image = Image.fromarray(_to_bytes(np.asarray(image), image.mode))
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image.convert("RGBA"))
        return image.convert("L" if channels == 1 else "RGB")


def _to_bytes(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Grey of 16 or 32 bits or of floats as uint8.

    Raises:
        ValueError: if it is not told what is black and what is white.
    """
    least, most = pixels.min(), pixels.max()
    if mode == "F":
        if not (np.isfinite(pixels).all() and least >= 0 and most <= 255):
            raise ValueError(f"its numbers go from {least:.4g} to {most:.4g}; expected floats in [0, 1] or in [0, 255]")
        return np.round(pixels * (255 if most <= 1 else 1)).astype(np.uint8)
    if least < 0 or most > 65535:
        raise ValueError(f"its numbers go from {least} to {most}; expected at most 16 bits")
    return (pixels.astype(np.int32) >> 8).astype(np.uint8)


def require_image_file(path: str | os.PathLike[str]) -> None:
    """Looks at the first bytes of a file: they tell whether it is an image, not whether it is whole.

    Raises:
        ValueError: if there is no such file, or if it is no image.
    """
    from PIL import Image

    with _naming(path), Image.open(_regular(path)):
        pass


def _regular(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The path of a file. A pipe or a device would be waited for, perhaps for ever."""
    if not os.path.isfile(path):
        raise ValueError("it is no file" if os.path.exists(path) else "there is no such file")
    return path


@contextlib.contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes one error of whatever Pillow raises for a file that it cannot read."""
    from PIL import Image

    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read {os.fspath(path)!r} as an image: {error}") from error


def decode_image(path: str | os.PathLike[str], shape: tuple[int, ...], *, invert: bool = False) -> np.ndarray:
    """Reads an image file as a model's input before `preprocess`, see `Dataset.raw_image_shape`.

    Turned and converted as by `ImageReader`, in grey or RGB, and resized without regard to its aspect ratio (bilinear,
    antialiased).

    Args:
        path: of a file in a format that Pillow reads.
        shape: (height, width, channels) wanted, with 1 or 3 channels.
        invert: swaps dark and light, e.g. for black digits on white paper.

    Returns:
        float32 [height, width, channels] in [0, 1].

    Raises:
        ValueError: if there is no such file, if it cannot be read as an image, or if the shape is not possible.
    """
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(f"an image file is decoded to a shape (height, width, 1 or 3 channels); got {shape}")
    reader = ImageReader(image_size=(shape[0], shape[1]), channels=shape[2], squash=True)
    pixels = to_unit(reader.read(path))
    return 1 - pixels if invert else pixels


def _filter(interpolation: str) -> Any:
    from PIL import Image

    return Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [height, width, 1 or 3] to another (height, width), bilinear and antialiased."""
    from PIL import Image

    height, width = size
    channels = image.shape[-1]
    whole = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, channels)
