"""The names of the classes that most published weights know."""

from __future__ import annotations

import functools
from pathlib import Path

IMAGENET_CLASSES = 1000


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k (Russakovsky et al. 2015) in the usual order, by torchvision's short names."""
    return tuple(Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines())
