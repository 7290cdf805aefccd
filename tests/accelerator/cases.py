"""What is measured: models, batch sizes, and the arithmetic that a model must do by formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Model:
    """A model to train, as the zoo and as PyTorch name it, and its FLOPs for one example of a train step.

    Attributes:
      name: in the tables.
      zoo: the name in the registry.
      options: of `zoo.create_model`.
      kind: "image" or "text".
      size: height and width of an image, or tokens of a text.
      flops: of forward and backward pass, multiplications and additions of products and convolutions alone.
    """

    name: str
    zoo: str
    kind: str
    size: int
    flops: float
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        return "images/s" if self.kind == "image" else "tokens/s"

    def units(self, batch: int) -> int:
        """Images or tokens of a batch."""
        return batch if self.kind == "image" else batch * self.size


@dataclass(frozen=True)
class Case:
    model: Model
    batch: int

    @property
    def name(self) -> str:
        return f"{self.model.name}, batch {self.batch}"


@dataclass(frozen=True)
class Generation:
    """Tokens written by a language model after a prompt."""

    batch: int
    prompt: int
    length: int
    options: Mapping[str, Any]


def batch_of(model: Model, size: int) -> dict[str, np.ndarray]:
    """Random examples, the same for both frameworks."""
    rng = np.random.default_rng(0)
    if model.kind == "text":
        return {"tokens": rng.integers(0, 256, (size, model.size + 1), np.int32)}
    image = rng.normal(size=(size, model.size, model.size, 3)).astype(np.float32)
    return {"image": image, "label": rng.integers(0, 1000, size, np.int32)}


def resnet_flops(
    image: int, stages: tuple[int, ...], bottleneck: bool, features: int = 64, classes: int = 1000
) -> float:
    """Of a train step on one image: three times the forward pass (Goyal et al. 2017 count so too)."""
    side = -(-image // 2)
    macs = side**2 * 7 * 7 * 3 * features
    side, inputs = -(-side // 2), features
    for stage, blocks in enumerate(stages):
        width = features * 2**stage
        outputs = 4 * width if bottleneck else width
        for block in range(blocks):
            before, side = side, -(-side // 2) if stage and not block else side
            if bottleneck:
                macs += before**2 * inputs * width + side**2 * (9 * width**2 + width * outputs)
            else:
                macs += side**2 * 9 * (inputs * width + width * outputs)
            if before != side or inputs != outputs:
                macs += side**2 * inputs * outputs
            inputs = outputs
    return 6.0 * (macs + inputs * classes)


def vit_flops(
    image: int, hidden: int, mlp: int, layers: int, patch: int = 16, channels: int = 3, classes: int = 1000
) -> float:
    """Of a train step on one image."""
    patches = (image // patch) ** 2
    tokens = patches + 1
    layer = tokens * (4 * hidden**2 + 2 * hidden * mlp) + 2 * tokens**2 * hidden
    return 6.0 * (patches * patch**2 * channels * hidden + layers * layer + hidden * classes)


def gpt_flops(time: int, hidden: int, layers: int, vocab: int) -> float:
    """Of a train step on one text: 6N + 12 L H T for each token (Chowdhery et al. 2022, appendix B).

    N are the weights in products, the table of embeddings as the head among them. As there, attention counts whole,
    although half of the scores are hidden.
    """
    weights = layers * 12 * hidden**2 + vocab * hidden
    return time * (6.0 * weights + 12.0 * layers * hidden * time)


PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "A100": 312e12,
}
"""FLOP/s of dense bfloat16 products by NVIDIA's data sheets; the first name that is part of a device's counts."""


def peak(device: str) -> float | None:
    """The rate of the data sheet, or None where the device is not known."""
    return next((rate for name, rate in PEAKS.items() if name.lower() in device.lower()), None)


def _gpt(name: str, **options: Any) -> Model:
    sizes = {"max_len": 1024, "hidden_size": 768, "num_layers": 12, "vocab_size": 50_257, **options}
    flops = gpt_flops(sizes["max_len"], sizes["hidden_size"], sizes["num_layers"], sizes["vocab_size"])
    return Model(name, "gpt2", "text", sizes["max_len"], flops, {"dropout_rate": 0.0, **options})


RESNET = Model("ResNet-50", "resnet50", "image", 224, resnet_flops(224, (3, 4, 6, 3), True))
VIT = Model("ViT-B/16", "vit_base_patch16_224", "image", 224, vit_flops(224, 768, 3072, 12), {"dropout_rate": 0.0})
GPT2 = _gpt("GPT-2 124M")
GPT2_PADDED = _gpt("GPT-2 124M, vocabulary padded to 50304", vocab_size=50_304)
_SMALL = {"max_len": 64, "hidden_size": 64, "num_layers": 1, "num_heads": 2}

TRAINING = {
    # Of each model the most important case comes first: it is compiled first.
    "gpt2": (Case(GPT2, 32), Case(GPT2_PADDED, 32)),
    "vit": (Case(VIT, 256), Case(VIT, 128)),
    "resnet50": (Case(RESNET, 256), Case(RESNET, 128)),
}
GENERATION = (Generation(1, 64, 256, {}), Generation(64, 64, 256, {}))

_RESNET_TINY = Model("ResNet-18", "resnet18", "image", 64, resnet_flops(64, (2, 2, 2, 2), False))
_VIT_TINY = Model(
    "ViT-Ti/16",
    "vit_tiny_patch16_224",
    "image",
    32,
    vit_flops(32, 192, 768, 12),
    {"dropout_rate": 0.0, "image_size": 32},
)
TINY_TRAINING = {
    "gpt2": (
        Case(_gpt("GPT-2 small", vocab_size=257, **_SMALL), 4),
        Case(_gpt("GPT-2 small", vocab_size=257, **_SMALL), 2),
    ),
    "vit": (Case(_VIT_TINY, 4),),
    "resnet50": (Case(_RESNET_TINY, 4),),
}
TINY_GENERATION = (Generation(2, 8, 24, {"vocab_size": 257, **_SMALL}),)


def training(tiny: bool) -> Mapping[str, tuple[Case, ...]]:
    return TINY_TRAINING if tiny else TRAINING


def generation(tiny: bool) -> tuple[Generation, ...]:
    return TINY_GENERATION if tiny else GENERATION
