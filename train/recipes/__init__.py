"""The recipes that come with the zoo, one file a domain; importing this package enters them."""

from train.recipes import (
    comparisons,
    dynamics,
    few_shot,
    folders,
    generative,
    graphs,
    images,
    sequences,
    tables,
    text,
    translation,
)

__all__ = [
    "comparisons",
    "dynamics",
    "few_shot",
    "folders",
    "generative",
    "graphs",
    "images",
    "sequences",
    "tables",
    "text",
    "translation",
]
