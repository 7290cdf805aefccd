"""Texts into texts, by a run that was trained on pairs of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from data.text import tokens
from train.inference.beam_search import decode
from train.inference.loading import Run, load
from train.tasks import task_option


class Translation(NamedTuple):
    """What became of a text, and the probability that the model gives it."""

    source: str
    text: str
    probability: float


def translate(folder: str | Path, texts: Sequence[str], *, beams: int = 1) -> list[Translation]:
    """The most probable targets of texts, by the best checkpoint of a run.

    Args:
      folder: a run of the task seq2seq.
      texts: of characters that the training data have, and no longer than those.
      beams: see `train.inference.beam_search.decode`; with 1 each token is the most probable after those before it.

    Raises:
      ValueError: the run has learnt something else, or a text cannot be read.
    """
    return translate_with(load(folder), texts, beams=beams)


def translate_with(run: Run, texts: Sequence[str], *, beams: int = 1) -> list[Translation]:
    """`translate` by a run that is loaded already."""
    if run.recipe.task != "seq2seq":
        raise ValueError(f"this run does {run.recipe.task}, and translates no texts; runs of the task seq2seq do")
    spec = run.dataset.spec
    inputs = task_option(run.recipe, "inputs")
    (longest,), (max_length,) = spec.fields[inputs].shape, spec.fields["targets"].shape
    for text in texts:
        if not 1 <= len(text) <= longest:
            raise ValueError(f"a text has from 1 to {longest} characters, not {len(text)}: {text!r}")
    source = tokens.pad([tokens.encode(text, spec.vocabulary) for text in texts], length=longest)
    found = decode(run.model, run.variables, jnp.asarray(source), max_length=max_length, beams=beams)
    best, log_probability = np.asarray(found.tokens[:, 0]), np.asarray(found.log_probability[:, 0])
    return [
        Translation(text, tokens.decode(row, spec.vocabulary), float(np.exp(value)))
        for text, row, value in zip(texts, best, log_probability, strict=True)
    ]
