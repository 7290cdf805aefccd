"""Vision Transformer (Dosovitskiy et al. 2021): an image as a sequence of patches."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import Conv, Dropout, record, require_image
from zoo.layers.basic import spread
from zoo.layers.linear import Dense
from zoo.layers.transformer_block import Block
from zoo.registry import register


class ViT(nn.Module):
    """Patches, a class token and position embeddings, and a stack of encoder blocks with the norm in front.

    The position embeddings are learnt for square images of `image_size`; for others they are resampled bicubically in
    every call, as timm does with `dynamic_img_size`. `stem` (what enters the first block) and `block1` … are named
    intermediates, `[batch, 1 + patches, hidden_size]`; `num_classes=0` gives the normalised class token. Dropout
    follows every dense layer but those of queries, keys and values, and the embeddings (paper, appendix B.1).
    """

    hidden_size: int
    num_heads: int
    mlp_dim: int
    num_layers: int = 12
    patch_size: int = 16
    image_size: int = 224
    num_classes: int = 1000
    dropout_rate: float = 0.1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]` → logits `[batch, num_classes]`.

        Raises:
          ValueError: height and width are no multiples of `patch_size`.
        """
        require_image(x, least=self.patch_size, model="ViT")
        if any(n % self.patch_size for n in (*x.shape[1:3], self.image_size)):
            raise ValueError(
                f"ViT takes images whose sides are multiples of {self.patch_size}, not {x.shape[1]} × {x.shape[2]} "
                f"(image_size {self.image_size}); resize, crop or pad them"
            )
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = Conv(self.hidden_size, self.patch_size, self.patch_size, padding=0, name="embed", **options)(x)
        batch, *grid, features = x.shape
        token = self.param("class_token", nn.initializers.zeros, (1, 1, features), self.param_dtype)
        learnt = self.image_size // self.patch_size
        positions = self.param(
            "position_embedding", nn.initializers.normal(0.02), (1, 1 + learnt**2, features), self.param_dtype
        )
        x = x.reshape(batch, -1, features)
        x = jnp.concatenate([spread(token, x[:, :1]), x], axis=1)
        x = x + spread(resample_positions(positions, learnt, grid), x)
        x = Dropout(self.dropout_rate)(x, train=train)
        record(self, "stem", x)
        for index in range(1, self.num_layers + 1):
            block = Block(
                self.num_heads,
                self.mlp_dim,
                norm_first=True,
                activation="gelu",
                dropout_rate=self.dropout_rate,
                hidden_dropout_rate=self.dropout_rate,
                name=f"encoder_block{index}",
                **options,
            )
            x, _ = block(x, train=train)
            record(self, f"block{index}", x)
        x = nn.LayerNorm(epsilon=1e-6, name="norm_head", **options)(x[:, 0])
        zeros = nn.initializers.zeros
        return Dense(self.num_classes, kernel_init=zeros, name="head", **options)(x) if self.num_classes else x


def resample_positions(positions: jax.Array, learnt: int, grid: list[int]) -> jax.Array:
    """Position embeddings of the class token and of `learnt`² patches, for a grid of another size."""
    if grid == [learnt, learnt]:
        return positions
    features = positions.shape[-1]
    patches = positions[:, 1:].reshape(1, learnt, learnt, features)
    patches = jax.image.resize(patches, (1, *grid, features), "cubic")
    return jnp.concatenate([positions[:, :1], patches.reshape(1, -1, features)], axis=1)


for _name, _hidden_size, _num_heads, _mlp_dim, _num_parameters in (
    ("vit_tiny_patch16_224", 192, 3, 768, 5_717_416),
    ("vit_small_patch16_224", 384, 6, 1536, 22_050_664),
    ("vit_base_patch16_224", 768, 12, 3072, 86_567_656),
):
    register(
        _name,
        task="classification",
        input_shape=(224, 224, 3),
        num_parameters=_num_parameters,
        weights_licence="Apache-2.0 (timm)",
        paper="A. Dosovitskiy et al., An image is worth 16×16 words, ICLR 2021, table 1; "
        "the smaller ones: H. Touvron et al., Training data-efficient image transformers, ICML 2021, table 1",
        hidden_size=_hidden_size,
        num_heads=_num_heads,
        mlp_dim=_mlp_dim,
    )(ViT)
