"""What the families share: layers, norms, activations, attention, recurrence, and their lowering per platform."""

from zoo.layers.basic import (
    BATCH_AXIS,
    adaptive_avg_pool,
    apart,
    batch_axis,
    flatten,
    global_avg_pool,
    record,
    require_image,
    require_tokens,
)
from zoo.layers.dropout import Dropout, DropPath, SpatialDropout
from zoo.layers.linear import Conv, ConvTranspose, Dense, Embed, he_normal
from zoo.layers.norms import BatchNorm, norm

__all__ = [
    "BATCH_AXIS",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "Dense",
    "DropPath",
    "Dropout",
    "Embed",
    "SpatialDropout",
    "adaptive_avg_pool",
    "apart",
    "batch_axis",
    "flatten",
    "global_avg_pool",
    "he_normal",
    "norm",
    "record",
    "require_image",
    "require_tokens",
]
