"""The panels of the demo: what a visitor can do with a trained run, and what the run answers."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import data
from data.text import tokens
from train.demo import requests
from train.demo.requests import Body
from train.inference import image_sampling, text_generation
from train.inference.loading import is_classifier, load, read_recipe
from train.inference.prediction import image_classifier
from train.inference.translation import translate_with
from train.tasks import CLASSIFIERS, task_option
from zoo.published import find

_LOG = logging.getLogger(__name__)

Answer = dict[str, Any] | Iterator[dict[str, Any]]
"""A JSON object, or several, which are sent as they are made."""


class Panel(NamedTuple):
    """One run on the page.

    Attributes:
      facts: what the page shows and needs to know; `kind` is "draw", "walk", "write" or "translate", `title` says so
        in words, `run` is the name.
      answer: from the body of a request to its answer; raises ValueError where the body holds something else.
    """

    facts: dict[str, Any]
    answer: Callable[[Body], Answer]


class UnsuitedError(ValueError):
    """There is no panel for what a run does."""


def panel(source: str | Path) -> Panel:
    """The panel of a run, its programs compiled.

    Args:
      source: what `train.inference.load` takes.

    Raises:
      UnsuitedError: there is no panel for what it does.
      OSError, ValueError: it cannot be loaded.
    """
    recipe = read_recipe(find(source))
    kind = _KINDS.get(recipe.task) or (_draw if recipe.task in CLASSIFIERS else None)
    if kind is None:
        raise UnsuitedError(f"{source}: the run does {recipe.task}; {_SUITED}")
    facts, answer = kind(source)
    return Panel(
        {**facts, "title": _TITLES[facts["kind"]], "run": str(source), "model": recipe.model, "data": recipe.data},
        answer,
    )


_SUITED = (
    "the demo has panels for classifiers of digits (data digits or mnist), VAEs (task vae), language models of "
    "characters (language_modeling) and translation (seq2seq)"
)


DRAWING = 140
"""Height and width of the picture that the page sends: several times those of any example."""


def _draw(source: str | Path) -> tuple[dict[str, Any], Callable[[Body], Answer]]:
    run = load(source)
    reader = run.dataset.reader
    if not (is_classifier(run) and isinstance(reader, data.StrokeReader)):
        raise UnsuitedError(f"{source}: the data {run.recipe.data} are no digits that can be drawn; {_SUITED}")
    classifier = jax.jit(image_classifier(run))
    classifier(np.zeros((1, *reader.shape), np.float32))

    def answer(body: Body) -> Answer:
        requests.require_fields(body, "picture")
        picture = requests.raw(body["picture"], "picture", DRAWING**2)
        grey = np.frombuffer(picture, np.uint8).reshape(DRAWING, DRAWING).astype(np.float32) / 255
        example = reader.prepare(grey, invert=False)
        probabilities = np.asarray(classifier(example[None]), np.float32)[0]
        return {"probabilities": [round(float(p), 6) for p in probabilities], "seen": _bytes(example)}

    return {"kind": "draw", "drawing": DRAWING, "classes": run.dataset.spec.classes, "side": reader.size}, answer


_MAP = 9
"""Pictures along each side of the map of a plane."""

_FARTHEST = 5.0
"""Standard deviations from the middle of the latent space."""


def _walk(source: str | Path) -> tuple[dict[str, Any], Callable[[Body], Answer]]:
    run = load(source)
    decoder = image_sampling.generator(run)
    axes = image_sampling.liveliest_plane(decoder)
    size = axes.shape[1]

    def pictures(points: np.ndarray, seed: int) -> np.ndarray:
        latents = points @ axes
        if seed:
            off = np.random.default_rng(seed).normal(size=size)
            latents = latents + off - axes.T @ (axes @ off)
        # Two batch sizes, so two programs.
        padded = np.resize(latents, (1 if len(points) == 1 else _MAP**2, size))
        return image_sampling.decode(decoder, jnp.asarray(padded, jnp.float32))[: len(points)]

    pictures(np.zeros((2, 2)), 0)
    shape = pictures(np.zeros((1, 2)), 0).shape[1:]

    def answer(body: Body) -> Answer:
        requests.require_fields(body, "points", "seed")
        points = [requests.items(p, "a point", 2) for p in requests.items(body["points"], "points", _MAP**2)]
        if any(len(point) != 2 for point in points):
            raise ValueError("a point must have two numbers")
        numbers = [[requests.number(n, "a point", -_FARTHEST, _FARTHEST) for n in point] for point in points]
        seed = requests.whole(body["seed"], "seed", 0, 2**31 - 1)
        return {"pictures": _bytes(pictures(np.array(numbers), seed))}

    return {"kind": "walk", "latent_size": size, "shape": shape, "map": _MAP}, answer


_LONGEST_PROMPT, _LONGEST_TEXT = 1000, 2000


def _write(source: str | Path) -> tuple[dict[str, Any], Callable[[Body], Answer]]:
    run = text_generation.load(source)
    longest = min(_LONGEST_PROMPT, getattr(run.model, "max_len", None) or _LONGEST_PROMPT)
    for _ in text_generation.write(run, 2 * run.vocabulary[0], _LONGEST_TEXT, one_by_one=True):
        pass  # reads a prompt, and again its own text where that fills the model's room: all programs there are

    def answer(body: Body) -> Answer:
        requests.require_fields(body, "prompt", "temperature", "length", "seed")
        pieces = text_generation.write(
            run,
            requests.text(body["prompt"], "prompt", longest),
            requests.whole(body["length"], "length", 1, _LONGEST_TEXT),
            temperature=requests.number(body["temperature"], "temperature", 0.05, 5),
            seed=requests.whole(body["seed"], "seed", 0, 2**31 - 1),
            one_by_one=True,
        )
        return ({"text": piece} for (piece,) in pieces)

    return {"kind": "write", "longest": longest, "alphabet": "".join(run.vocabulary)}, answer


def _translate(source: str | Path) -> tuple[dict[str, Any], Callable[[Body], Answer]]:
    run = load(source)
    inputs = task_option(run.recipe, "inputs")
    (longest,) = run.dataset.spec.fields[inputs].shape
    rows = run.dataset.splits["test"][np.arange(min(4, len(run.dataset.splits["test"])))][inputs]
    examples = [tokens.decode(row, run.dataset.spec.vocabulary) for row in rows]
    translate_with(run, examples[:1])

    def answer(body: Body) -> Answer:
        requests.require_fields(body, "text")
        (found,) = translate_with(run, [requests.text(body["text"], "text", longest)])
        return {"text": found.text, "probability": found.probability}

    return {"kind": "translate", "longest": longest, "examples": examples}, answer


_TITLES = {
    "draw": "Draw a digit",
    "walk": "Walk through latent space",
    "write": "Let a text be written",
    "translate": "Translate",
}
"""What a visitor does with each kind of panel, in the order of the page."""

_SHIPPED = ("lenet5_mnist", "vae_mnist", "char_gpt", "transformer_dates")
"""What is shown where there is no run: a model that ships for each kind."""

_KINDS = {"vae": _walk, "language_modeling": _write, "seq2seq": _translate}
"""By the task of a run."""


def _bytes(pixels: np.ndarray) -> str:
    return base64.b64encode(np.uint8(np.round(pixels.clip(0, 1) * 255)).tobytes()).decode()


def of_folder(folder: Path) -> list[Panel]:
    """The panels of the runs in a folder, or where none suits, of models that ship with the zoo.

    A run that cannot be loaded is told of, and left out.
    """
    found = []
    for run in sorted(path.parent for path in folder.glob("*/recipe.json")):
        try:
            found.append(panel(run))
        except UnsuitedError:
            continue
        except (ImportError, OSError, ValueError) as error:
            _LOG.warning("%s is left out: %s", run, error)
    if not found:
        return [panel(name) for name in _SHIPPED]
    return sorted(found, key=lambda panel: [*_TITLES].index(panel.facts["kind"]))
