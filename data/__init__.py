"""Data sets by name, and the order in which a training run sees them:

    digits = data.load("digits", validation=0.1)
    for step in range(data.steps_per_epoch(len(digits.splits["train"]), 32)):
        (indices,) = data.batch_indices(seed, len(digits.splits["train"]), 32, start=step)
        batch = digits.preprocess(digits.splits["train"][indices])

All of it is numpy on the host; `preprocess` may as well run inside a compiled training step.
"""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[1] / "train" / "entry.py"))["require_ours"](Path(__file__).parents[1])

# Each wing registers its data sets when it is imported.
from data import episodes, graphs, images, sequences, tables, text
from data.dataset import ArraySource, Dataset, Field, Source, Spec
from data.image import ImageReader, decode_image
from data.images.strokes import StrokeReader
from data.pipeline import batch_indices, prefetch, steps_per_epoch
from data.registry import list_datasets, load, register
from data.tables.arrays import from_arrays
from data.tables.csv_file import TableReader
from data.text.texts import TextReader

__all__ = [
    "ArraySource",
    "Dataset",
    "Field",
    "ImageReader",
    "Source",
    "Spec",
    "StrokeReader",
    "TableReader",
    "TextReader",
    "batch_indices",
    "decode_image",
    "episodes",
    "from_arrays",
    "graphs",
    "images",
    "list_datasets",
    "load",
    "prefetch",
    "register",
    "sequences",
    "steps_per_epoch",
    "tables",
    "text",
]
