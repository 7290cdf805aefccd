"""What the tests of layers share: arrays to apply them to, and the zeros of SAME."""

from __future__ import annotations

import numpy as np


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def same_padding(size, window, strides, dilation):
    """⌈n / s⌉ outputs, with the odd zero at the end."""
    pads = []
    for n, f, s, d in zip(size, window, strides, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + (f - 1) * d + 1 - n, 0)
        pads.append((total // 2, total - total // 2))
    return pads
