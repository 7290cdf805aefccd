"""What the families share: layers, norms, activations, attention, recurrence, and their lowering per platform."""

from zoo.layers.basic import (
    BATCH_AXIS,
    Conv,
    ConvTranspose,
    Dropout,
    DropPath,
    adaptive_avg_pool,
    batch_axis,
    flatten,
    global_avg_pool,
    he_normal,
    record,
    require_image,
    require_tokens,
)
from zoo.layers.norms import BatchNorm

__all__ = [
    "BATCH_AXIS",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "DropPath",
    "Dropout",
    "adaptive_avg_pool",
    "batch_axis",
    "flatten",
    "global_avg_pool",
    "he_normal",
    "record",
    "require_image",
    "require_tokens",
]
