"""From a picture of a digit that a person drew to an example like those of the digit sets.

What was done to those digits is done to the picture: the strokes are found, scaled into a box and centred.
"""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.image import open_image

_LOG = logging.getLogger(__name__)

_INK = 0.3
"""The part of the darkest stroke that counts as stroke; what is fainter is paper, shadow or the edge of a stroke."""

_PAPER = 0.1
"""What is fainter is no part of a stroke's edge either."""

_LEAST_CONTRAST = 0.1
"""Between strokes and ground, of the way from black to white."""


@functools.cache
def _tell_of_dark_strokes() -> None:
    """Once, and not for each picture of a folder."""
    _LOG.warning("pictures of dark strokes on a light ground are inverted")


@dataclass(frozen=True)
class StrokeReader:
    """How a picture of one light or dark drawing on an even ground becomes light strokes on black.

    A picture that has the size of an example already keeps its place and scale.

    Attributes:
        size: height and width of an example.
        box: (height, width) that the strokes are scaled to fit into, with their aspect ratio.
        centre: what lies in the middle of the example: the strokes' centre of "mass", or that of their "box".
        squash: the strokes always have the height of the box, and are narrowed where they are wider than it.
        upright: a slant is taken out first.
        blocks: each pixel is the share of stroke in so many pixels along height and width of a black and white bitmap;
            1 for grey strokes without one.
    """

    size: int
    box: tuple[int, int]
    centre: Literal["mass", "box"]
    squash: bool = False
    upright: bool = False
    blocks: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what is read."""
        return self.size, self.size, 1

    def read(self, path: str | os.PathLike[str], *, invert: bool | None = None) -> np.ndarray:
        """The drawing in a file, float32 [size, size, 1] in [0, 1].

        Args:
            path: of a picture that Pillow reads.
            invert: whether the strokes are dark on a light ground; None finds it out by the edge of the picture, and
                logs it once.

        Raises:
            ValueError: if the file is no picture, or if nothing is drawn in it.
        """
        grey = np.asarray(open_image(path, 1), np.float32) / 255
        if grey.min() == grey.max():
            grey = np.asarray(open_image(path, 1, ground="white"), np.float32) / 255
        return self.prepare(grey, invert=invert, name=repr(os.fspath(path)))

    def prepare(self, grey: np.ndarray, *, invert: bool | None = None, name: str = "the picture") -> np.ndarray:
        """The drawing in a picture in [0, 1], `[height, width]`, as `read` gives it.

        Args:
            grey: the picture.
            invert: see `read`.
            name: what an error calls it.

        Raises:
            ValueError: if nothing is drawn in it.
        """
        ground = float(np.median(np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])))
        dark = ground > 0.5 if invert is None else invert
        if dark and invert is None:
            _tell_of_dark_strokes()
        ink = (ground - grey if dark else grey - ground).clip(0)
        if ink.max() < _LEAST_CONTRAST:
            raise ValueError(f"nothing is drawn in {name}: all its pixels are much alike")
        if grey.shape == self.shape[:2]:
            return (1 - grey if dark else grey)[..., None]
        ink = ink / ink.max()
        return self._placed(np.where(ink < _PAPER, 0, ink))[..., None]

    def _placed(self, ink: np.ndarray) -> np.ndarray:
        """Strokes in [0, 1] of any size, scaled into the box and put into the middle."""
        from PIL import Image

        ink = _cropped(_upright(_cropped(ink)) if self.upright else ink)
        box = [side * self.blocks for side in self.box]
        scale = box[0] / ink.shape[0] if self.squash else min(np.divide(box, ink.shape))
        height, width = (max(1, min(most, round(side * scale))) for side, most in zip(ink.shape, box, strict=True))
        strokes = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BOX))
        strokes = strokes / strokes.max()
        if self.blocks > 1:
            strokes = (strokes > _INK).astype(np.float32)
        side = self.size * self.blocks
        example = np.zeros((side, side), np.float32)
        top, left = self._corner(strokes, side)
        example[top : top + height, left : left + width] = strokes
        return example.reshape(self.size, self.blocks, self.size, self.blocks).mean(axis=(1, 3))

    def _corner(self, strokes: np.ndarray, whole: int) -> tuple[int, int]:
        """Where the upper left corner of the strokes goes in a square of side `whole`."""
        corner = []
        for axis, side in enumerate(strokes.shape):
            mass = strokes.sum(axis=1 - axis)
            place = (whole - side) / 2
            if self.centre == "mass":
                place = whole / 2 - (mass * np.arange(side)).sum() / mass.sum()
            corner.append(int(np.clip(round(place), 0, whole - side)))
        return corner[0], corner[1]


def _cropped(ink: np.ndarray) -> np.ndarray:
    """The smallest rectangle that holds all strokes."""
    rows, columns = (np.flatnonzero((ink > _INK).any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _upright(ink: np.ndarray) -> np.ndarray:
    """The strokes, their rows moved sideways so that they slant neither way: x and y are uncorrelated."""
    from PIL import Image

    height, width = ink.shape
    y, x = np.mgrid[:height, :width]
    y, x = (axis - (ink * axis).sum() / ink.sum() for axis in (y, x))
    slant = (ink * y * x).sum() / max((ink * y**2).sum(), 1e-6)
    wide = Image.fromarray(np.pad(ink, ((0, 0), (height, height))))
    shear = (1, slant, -slant * height / 2, 0, 1, 0)
    return np.asarray(wide.transform(wide.size, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR))
