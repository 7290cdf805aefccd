"""Weights on the hub of Hugging Face that are known by the name of their model, and what was published of them.

Of images the repositories are those that timm takes by default. Their accuracies are timm's own, of
`results/results-imagenet.csv` at commit 4e5207c7 of huggingface/pytorch-image-models, at the size and crop that
`preprocessing` gives. Of language models the sources stand beside the numbers.
"""

from __future__ import annotations

from typing import NamedTuple

from zoo.options import unknown


class Known(NamedTuple):
    """Published weights.

    Attributes:
      source: the repository, as `zoo.pretrained.load` takes it.
      licence: of the weights, as their publisher states it.
      published: what they reach, by their publisher; empty where no figure was found.
      reference: where that stands.
    """

    source: str
    licence: str
    published: str = ""
    reference: str = ""


_TIMM = "timm, results-imagenet.csv"


def _timm(source: str, top1: float, top5: float, licence: str = "Apache-2.0") -> Known:
    published = f"ImageNet validation: {top1:.3f} % top-1, {top5:.3f} % top-5"
    return Known(f"timm/{source}", licence, published, _TIMM)


_GPT2 = "Radford et al. 2019, table 3"
_SMALL_BERT = "card of the repository; Turc et al. 2019"

KNOWN: dict[str, Known] = {
    "resnet18": _timm("resnet18.a1_in1k", 71.504, 90.086),
    "resnet34": _timm("resnet34.a1_in1k", 76.420, 92.896),
    "resnet50": _timm("resnet50.a1_in1k", 80.382, 94.598),
    "resnet101": _timm("resnet101.a1h_in1k", 81.950, 95.760),
    "resnet152": _timm("resnet152.a1h_in1k", 82.818, 96.124),
    "vgg11": _timm("vgg11.tv_in1k", 69.050, 88.630, "BSD-3-Clause"),
    "vgg13": _timm("vgg13.tv_in1k", 69.950, 89.262, "BSD-3-Clause"),
    "vgg16": _timm("vgg16.tv_in1k", 71.594, 90.398, "BSD-3-Clause"),
    "vgg19": _timm("vgg19.tv_in1k", 72.400, 90.878, "BSD-3-Clause"),
    "vgg11_bn": _timm("vgg11_bn.tv_in1k", 70.374, 89.802, "BSD-3-Clause"),
    "vgg13_bn": _timm("vgg13_bn.tv_in1k", 71.560, 90.372, "BSD-3-Clause"),
    "vgg16_bn": _timm("vgg16_bn.tv_in1k", 73.354, 91.490, "BSD-3-Clause"),
    "vgg19_bn": _timm("vgg19_bn.tv_in1k", 74.230, 91.848, "BSD-3-Clause"),
    "densenet121": _timm("densenet121.ra_in1k", 75.574, 92.648),
    "mobilenet_v3_large": _timm("mobilenetv3_large_100.ra_in1k", 75.784, 92.528),
    "efficientnet_b0": _timm("efficientnet_b0.ra_in1k", 77.698, 93.538),
    "efficientnet_b1": _timm("efficientnet_b1.ra4_e3600_r240_in1k", 80.404, 95.152),
    "efficientnet_b2": _timm("efficientnet_b2.ra_in1k", 79.324, 94.582),
    "efficientnet_b3": _timm("efficientnet_b3.ra2_in1k", 81.472, 95.696),
    "efficientnet_b4": _timm("efficientnet_b4.ra2_in1k", 82.658, 96.134),
    "efficientnet_b5": _timm("efficientnet_b5.sw_in12k_ft_in1k", 85.894, 97.742),
    "convnext_tiny": _timm("convnext_tiny.in12k_ft_in1k", 84.192, 97.132),
    "vit_tiny_patch16_224": _timm("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 75.452, 92.858),
    "vit_small_patch16_224": _timm("vit_small_patch16_224.augreg_in21k_ft_in1k", 81.402, 96.150),
    "vit_base_patch16_224": _timm("vit_base_patch16_224.augreg2_in21k_ft_in1k", 85.108, 97.530),
    "gpt2": Known("openai-community/gpt2", "MIT", "WikiText2, zero-shot: perplexity 29.41", _GPT2),
    "gpt2_medium": Known("openai-community/gpt2-medium", "MIT", "WikiText2, zero-shot: perplexity 22.76", _GPT2),
    "gpt2_large": Known("openai-community/gpt2-large", "MIT", "WikiText2, zero-shot: perplexity 19.93", _GPT2),
    "gpt2_xl": Known("openai-community/gpt2-xl", "MIT", "WikiText2, zero-shot: perplexity 18.34", _GPT2),
    "bert_tiny": Known("google/bert_uncased_L-2_H-128_A-2", "Apache-2.0", "GLUE test score, tuned: 64.2", _SMALL_BERT),
    "bert_small": Known("google/bert_uncased_L-4_H-512_A-8", "Apache-2.0", "GLUE test score, tuned: 71.2", _SMALL_BERT),
    "bert_base": Known(
        "google-bert/bert-base-uncased", "Apache-2.0", "GLUE test average, tuned: 79.6", "card of the repository"
    ),
    "bert_large": Known("google-bert/bert-large-uncased", "Apache-2.0"),
    "tinyllama_1b": Known(
        "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
        "Apache-2.0",
        "seven tests of common sense, zero-shot: 52.99 % on average",
        "card of the repository",
    ),
    "llama2_7b": Known("meta-llama/Llama-2-7b-hf", "Llama 2 Community License"),
}
"""By the name of the model."""


def known_weights(name: str) -> Known:
    """What is known of the published weights of a model.

    Raises:
      ValueError: none are known; says which are.
    """
    if name not in KNOWN:
        raise ValueError(
            f"{unknown('name of published weights', name, KNOWN)}; give a file, a folder or a name on the hub "
            f'(`zoo weights` lists what is known): load({name!r}, "FILE")'
        )
    return KNOWN[name]
