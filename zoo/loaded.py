"""What every loader of weights gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn


class Preprocessing(NamedTuple):
    """Resize, crop the centre, scale to [0, 1], subtract `mean` and divide by `std`.

    `data.ImageReader.of(**preprocessing._asdict())` does so.

    Attributes:
      image_size: height and width of what the model sees, one number where they are equal.
      crop: the part of the resized image's shorter side that the crop keeps.
      interpolation: of the resizing, with antialiasing.
      mean: of red, green and blue in [0, 1]; None for zeros.
      std: likewise; None for ones.
      squash: resize both sides to the same length, in place of the shorter one with the aspect ratio kept.
      channels: 3 for colours, 1 for grey.
    """

    image_size: int | tuple[int, int]
    crop: float = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] | None = (0.485, 0.456, 0.406)
    std: tuple[float, ...] | None = (0.229, 0.224, 0.225)
    squash: bool = False
    channels: int = 3

    @property
    def resized(self) -> int:
        """Length of the shorter side before the crop, rounded down as timm does."""
        side = self.image_size if isinstance(self.image_size, int) else min(self.image_size)
        return math.floor(side / self.crop + 1e-6)  # a quotient such as 224 / (224 / 232) may fall short


class _Pair(NamedTuple):
    model: nn.Module
    variables: dict[str, Any]


class Loaded(_Pair):
    """What every loader gives, `model, variables = …`, and what is known beside it.

    Attributes:
      model: the module.
      variables: what its `apply` takes.
      preprocessing: how its images are prepared; None where it takes none, or where it is not known.
      classes: what its outputs mean; empty where it is not known.
      folder: the checkpoint that was read, where it was one.
      config: the configuration that came with the weights, such as `config["eos_token_id"]`; empty where none did.
      faults: what is wrong with the weights, such as "NaN or infinity in fc.weight"; a warning has said it.
    """

    preprocessing: Preprocessing | None
    classes: tuple[str, ...]
    folder: Path | None
    config: dict[str, Any]
    faults: tuple[str, ...]

    def __new__(
        cls,
        model: nn.Module,
        variables: dict[str, Any],
        preprocessing: Preprocessing | None = None,
        classes: Sequence[str] = (),
        folder: Path | None = None,
        config: Mapping[str, Any] | None = None,
        faults: Sequence[str] = (),
    ) -> Loaded:
        """The pair, with the others as attributes."""
        pair = super().__new__(cls, model, variables)
        pair.preprocessing, pair.classes, pair.folder = preprocessing, tuple(classes), folder
        pair.config, pair.faults = dict(config or {}), tuple(faults)
        return pair
