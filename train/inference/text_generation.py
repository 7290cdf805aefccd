"""Text out of language models, by one compiled loop over the state of the model.

A language model is called with tokens `[batch, time]` and a state, and gives the logits of what follows each and the
state after them; `model.init_state(batch_size)` is the state before the first token. A model with a `max_len` can read
so many tokens into one state, or as many as `init_state(batch_size, room)` makes room for, where it takes that; others
as many as they are given.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jax import lax

import zoo
from data.text.tokens import encode
from train.files import read_json
from train.inference.loading import read_recipe
from train.loop.feed import require_known_tokens
from zoo.published import find

VOCABULARY = "vocabulary.json"
"""The file in the folder of a run that holds what its tokens stand for, in order."""

_MOST_STEPS, _MOST_NOISE, _ROOM = 64, 2**22, 128
"""Of one call of the compiled loop: steps, and random numbers that are drawn in front of it. And the multiple of places
that a state has room for: few programs serve all lengths, and no step reads many places that stay empty."""

_LEAST = 1e-4
"""Of temperature and top_p: below it, single precision leaves nothing to draw from."""

_LONGEST = 10**8
"""Tokens of a text."""

_NOTHING = -1
"""Stands in the place of a token after the one that ended a row."""


Prompt = np.ndarray | Sequence[Sequence[int] | np.ndarray]
"""Tokens, integer `[batch, time]`, or rows of several lengths."""


class _Choice(NamedTuple):
    """How the next token is chosen; `temperature` is None for the most probable."""

    key: jax.Array
    temperature: float | None
    top_p: float | None


def generate(model: nn.Module, variables: Any, prompt: Prompt, length: int, **options: Any) -> np.ndarray:
    """Goes on from prompts: the pieces that `stream` gives, as one.

    Returns:
      `[batch, length]` without the prompt. After the token that ends a row come −1; columns of these are left out.
    """
    return np.concatenate(list(stream(model, variables, prompt, length, **options)), axis=1)


def stream(
    model: nn.Module,
    variables: Any,
    prompt: Prompt,
    length: int,
    *,
    mask: np.ndarray | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    stop: Sequence[int] = (),
    one_by_one: bool = False,
) -> Iterator[np.ndarray]:
    """Goes on from prompts, a piece `[batch, tokens]` after another.

    Each row draws its own random numbers, which depend on the seed, the row and the place in the text alone: the first
    row of a batch is what a batch of one would be, however long the others are.

    Where a model with a `max_len` has no room left in a row, it reads the last `max_len // 2` tokens of that row anew,
    and goes on from there.

    Args:
      model: a language model.
      variables: what its `apply` takes.
      prompt: tokens, integer `[batch, time]`, or rows of several lengths, which are padded on the left.
      mask: boolean `[batch, time]`, which tokens of an array are no padding. Padding stands on the left. The model must
        take a `mask`, as GPT, Llama and the LSTM of characters do.
      length: tokens to generate.
      seed: of what is drawn.
      temperature: what logits are divided by; less than 1 makes the probable more probable.
      top_k: draw from so many most probable tokens.
      top_p: draw from the fewest most probable tokens that have this probability together (Holtzman et al. 2020), of
        those that `top_k` leaves.
      greedy: take the most probable token, and draw nothing.
      stop: tokens, each of which ends a row.
      one_by_one: prompts, of one length, are read token by token, by one program for all lengths. At once is quicker,
        but another program is compiled for each length.

    Raises:
      ValueError: a number is out of its range, or the prompt is empty, longer than what the model can read or padded
        elsewhere than on the left.
    """
    tokens, lengths = _left_padded(prompt, mask)
    if len(set(lengths.tolist())) > 1 and "mask" not in inspect.signature(type(model).__call__).parameters:
        raise ValueError(f"{type(model).__name__} takes no mask: give prompts of one length")
    max_len = getattr(model, "max_len", None)
    _require(tokens, length, max_len, temperature, top_k, top_p)
    require_known_tokens(tokens, model.vocab_size, "the prompt")
    tokens = tokens.astype(np.int32)
    choice = _Choice(jax.random.key(seed), None if greedy else float(temperature), None if top_p == 1 else top_p)
    if one_by_one and lengths.min() < tokens.shape[1]:
        raise ValueError("prompts that are read one by one must have one length")
    ends = np.asarray(stop, np.int32)
    return _pieces(model, variables, tokens, lengths, length, max_len, choice, top_k, ends, one_by_one)


def _left_padded(prompt: Prompt, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """The rows with zeros on the left, `[batch, time]`, and the length of each."""
    if not isinstance(prompt, np.ndarray | jax.Array) and len({np.size(row) for row in prompt}) > 1:
        if mask is not None:
            raise ValueError("rows of several lengths are padded here; give a mask with an array alone")
        rows = [np.asarray(row) for row in prompt]
        lengths = np.array([row.size for row in rows])
        if empty := [index for index, row in enumerate(rows) if row.ndim != 1 or not row.size]:
            raise ValueError(f"row {empty[0]} of the prompt has no tokens; each needs one at least")
        return np.stack([np.pad(row, (lengths.max() - row.size, 0)) for row in rows]), lengths
    tokens = np.asarray(prompt)
    if mask is None:
        return tokens, np.full(tokens.shape[:1], tokens.shape[-1] if tokens.ndim else 0)
    mask = np.asarray(mask).astype(bool)
    if mask.shape != tokens.shape:
        raise ValueError(f"the mask has the shape {list(mask.shape)}, and the prompt has {list(tokens.shape)}")
    lengths = mask.sum(axis=-1)
    if not (mask == (np.arange(mask.shape[-1]) >= mask.shape[-1] - lengths[..., None])).all() or not lengths.all():
        raise ValueError("padding stands on the left of a prompt, and each row has at least one token; not so here")
    return np.where(mask, tokens, 0), lengths


def _require(
    prompt: np.ndarray, length: int, max_len: int | None, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    if prompt.ndim != 2 or 0 in prompt.shape:
        raise ValueError(f"a prompt has the shape [batch, time], with at least one token, not {list(prompt.shape)}")
    if max_len is not None and prompt.shape[1] > max_len:
        raise ValueError(f"the prompt has {prompt.shape[1]} tokens, and the model reads {max_len}; shorten it")
    if not 1 <= length <= _LONGEST:
        raise ValueError(f"length must be from 1 to {_LONGEST:,}, not {length}")
    if not _LEAST <= temperature < np.inf:
        raise ValueError(
            f"temperature must be finite and at least {_LEAST}, not {temperature}; greedy (--greedy) takes the most "
            "probable token"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if top_p is not None and not _LEAST <= top_p <= 1:
        raise ValueError(f"top_p must be in [{_LEAST}, 1], not {top_p}; greedy (--greedy) takes the most probable")


def _pieces(
    model: Any,
    variables: Any,
    prompt: np.ndarray,
    lengths: np.ndarray,
    length: int,
    max_len: int | None,
    choice: _Choice,
    top_k: int | None,
    stop: np.ndarray,
    one_by_one: bool,
) -> Iterator[np.ndarray]:
    batch, vocab_size = len(prompt), model.vocab_size
    visible = lengths  # how many of the last tokens of each row the next one is chosen by
    top_k = None if top_k is None else min(top_k, vocab_size)
    text, made, room = prompt, 0, 0
    state, token, ended = None, None, np.zeros(batch, bool)
    while made < length and not (stop.size and np.all(ended)):
        if room == 0:
            if max_len is not None:
                visible = np.where(visible > max_len, max(1, max_len // 2), visible)
            width = int(visible.max())
            context = np.maximum(text[:, -width:], 0)
            seen = None if (visible == width).all() else np.arange(width) >= width - visible[:, None]
            room = length if max_len is None else max_len - width
            sizes = {}
            if max_len is not None and "room" in inspect.signature(model.init_state).parameters:
                sizes["room"] = min(max_len, -(-(width + length - made) // _ROOM) * _ROOM)
            state = None
            if one_by_one:
                state = _read_one_by_one(model, variables, context[:, :-1], model.init_state(batch, **sizes))
                context = context[:, -1:]
            now = (model, variables, context, state, seen, ended, made, choice, stop)
            token, ended, state = _read(*now, top_k=top_k, sizes=FrozenDict(sizes))
            count = 1
            piece = np.asarray(token)[:, None]
        else:
            count = min(_MOST_STEPS, length - made, room)
            piece, token, ended, state = _write(
                *(model, variables, state, token, ended, made, count, choice, stop), top_k=top_k, most_steps=_MOST_STEPS
            )
            piece = np.asarray(piece)[:, :count]
            room -= count
        made += count
        visible = visible + count
        if max_len is not None:
            text = np.concatenate([text, piece], axis=1)
        yield piece[:, (piece != _NOTHING).any(axis=0)]


def _read_one_by_one(model: Any, variables: Any, tokens: np.ndarray, state: Any) -> Any:
    """The state after `tokens`, `[batch, time]`."""
    for part in np.split(tokens, range(_MOST_STEPS, tokens.shape[1], _MOST_STEPS), axis=1):
        filled_up = np.pad(part, ((0, 0), (0, _MOST_STEPS - part.shape[1])))
        state = _read_some(model, variables, filled_up, state, part.shape[1])
    return state


@partial(jax.jit, static_argnames="model")
def _read_some(model: Any, variables: Any, tokens: jax.Array, state: Any, count: int) -> Any:
    def read(step: jax.Array, state: Any) -> Any:
        return model.apply(variables, lax.dynamic_slice_in_dim(tokens, step, 1, axis=1), state)[1]

    return lax.fori_loop(0, count, read, state)


@partial(jax.jit, static_argnames=("model", "top_k", "sizes"))
def _read(
    model: Any,
    variables: Any,
    tokens: jax.Array,
    state: Any,
    mask: jax.Array | None,
    ended: jax.Array,
    made: int,
    choice: _Choice,
    stop: jax.Array,
    *,
    top_k: int | None,
    sizes: Mapping[str, int],
) -> tuple[jax.Array, jax.Array, Any]:
    """The token after `tokens`, `[batch]`, which rows have ended, and the state after `tokens`, of None the first."""
    batch = tokens.shape[0]
    padded = {} if mask is None else {"mask": mask}
    state = model.init_state(batch, **sizes) if state is None else state
    logits, state = model.apply(variables, tokens, state, **padded)
    noise = _noise(choice, made, 1, batch, logits.shape[-1])
    token, ended = _next(logits[:, -1], noise[0], ended, choice, stop, top_k)
    return token, ended, state


@partial(jax.jit, static_argnames=("model", "top_k", "most_steps"), donate_argnames="state")
def _write(
    model: Any,
    variables: Any,
    state: Any,
    token: jax.Array,
    ended: jax.Array,
    made: int,
    count: int,
    choice: _Choice,
    stop: jax.Array,
    *,
    top_k: int | None,
    most_steps: int,
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """Tokens `[batch, most_steps]`, of which the first `count` are made, and what the next call needs.

    `token` is the last that was chosen, and has not been read yet. The noise of all steps is drawn in front of the
    loop, unless it is much: in it the same numbers would take longer than an LSTM.
    """
    batch = token.shape[0]
    ahead = most_steps * batch * model.vocab_size <= _MOST_NOISE
    drawn = _noise(choice, made, most_steps, batch, model.vocab_size) if ahead else None

    def unfinished(carry: Any) -> jax.Array:
        step, _, ended, _, _ = carry
        return (step < count) & ~ended.all()

    def write(carry: Any) -> Any:
        step, token, ended, state, tokens = carry
        logits, state = model.apply(variables, jnp.maximum(token, 0)[:, None], state)
        noise = _noise(choice, made + step, 1, batch, model.vocab_size)[0] if drawn is None else drawn[step]
        token, ended = _next(logits[:, 0], noise, ended, choice, stop, top_k)
        return step + 1, token, ended, state, tokens.at[:, step].set(token)

    tokens = jnp.full((batch, most_steps), _NOTHING, jnp.int32)
    _, token, ended, state, tokens = lax.while_loop(unfinished, write, (0, token, ended, state, tokens))
    return tokens, token, ended, state


def _noise(choice: _Choice, made: int, steps: int, batch: int, vocab_size: int) -> jax.Array:
    """Gumbel noise `[steps, batch, vocab_size]`, a function of key, row and place; zeros for greedy choice."""
    if choice.temperature is None:
        return jnp.zeros((steps, batch, 1))

    def draw(step: jax.Array, row: jax.Array) -> jax.Array:
        return jax.random.gumbel(jax.random.fold_in(jax.random.fold_in(choice.key, row), step), (vocab_size,))

    return jax.vmap(jax.vmap(draw, (None, 0)), (0, None))(made + jnp.arange(steps), jnp.arange(batch))


def _next(
    logits: jax.Array, noise: jax.Array, ended: jax.Array, choice: _Choice, stop: jax.Array, top_k: int | None
) -> tuple[jax.Array, jax.Array]:
    """The next token of each row, `[batch]`, or that there is none, and which rows have ended then."""
    token = jnp.where(ended, _NOTHING, choose(logits, noise, choice.temperature, top_k, choice.top_p))
    return token, ended | (token[:, None] == stop[None]).any(axis=1)


def choose(
    logits: jax.Array,
    noise: jax.Array,
    temperature: float | jax.Array | None,
    top_k: int | None = None,
    top_p: float | jax.Array | None = None,
) -> jax.Array:
    """One token for each row, int32 `[batch]`: with Gumbel noise, a draw from the softmax of what `generate` leaves.

    Args:
      logits: `[batch, vocab_size]`.
      noise: of the same shape.
      temperature: None takes the most probable token.
      top_k: see `generate`.
      top_p: see `generate`.
    """
    logits = logits.astype(jnp.float32)
    if temperature is None:
        return logits.argmax(axis=-1).astype(jnp.int32)
    logits = logits / temperature
    if top_k is None and top_p is None:
        return (logits + noise).argmax(axis=-1).astype(jnp.int32)
    best, tokens = lax.top_k(logits, top_k or logits.shape[-1])
    if top_p is not None:
        probabilities = jax.nn.softmax(best)
        more_probable = probabilities.cumsum(axis=-1) - probabilities
        best = jnp.where(more_probable < top_p, best, -jnp.inf)
    drawn = (best + jnp.take_along_axis(noise, tokens, axis=-1)).argmax(axis=-1)
    return jnp.take_along_axis(tokens, drawn[:, None], axis=-1)[:, 0]


class TextRun(NamedTuple):
    """A language model of characters that was trained, and what its tokens stand for."""

    model: nn.Module
    variables: dict[str, Any]
    vocabulary: tuple[str, ...]


def load(folder: str | Path) -> TextRun:
    """The best checkpoint of a run that models text, or a model that ships with the zoo or is on the hub.

    Raises:
      ValueError: the folder is no run, has no checkpoint yet, or its run does something else.
    """
    folder = find(folder)
    recipe = read_recipe(folder)
    if recipe.task != "language_modeling":
        raise ValueError(f"this run models no language, but does {recipe.task}; runs of the task language_modeling do")
    model, variables = zoo.load_model(folder)
    try:
        vocabulary = tuple(read_json(folder / VOCABULARY, Sequence[str]))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} lacks what its tokens stand for: {error}") from None
    return TextRun(model, jax.device_put(variables), vocabulary)


def write(run: TextRun, prompt: str, length: int, *, n: int = 1, stop: str = "", **options: Any) -> Iterator[list[str]]:
    """Goes on from a prompt `n` times, a piece of each text after another.

    Args:
      run: the model.
      prompt: its characters are all in the vocabulary. An empty one stands for the beginning of a line.
      length: characters to write.
      n: texts, each with its own random numbers.
      stop: characters, each of which ends a text.
      **options: `seed`, `temperature`, `top_k`, `top_p`, `greedy`, see `generate`.

    Raises:
      ValueError: as `generate`, or the vocabulary lacks a character.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    prompts = np.tile(encode(prompt or "\n", run.vocabulary), (n, 1))
    ends = encode(stop, run.vocabulary)
    pieces = stream(run.model, run.variables, prompts, length, stop=ends, **options)
    return ([decode(row, run.vocabulary) for row in piece] for piece in pieces)


def decode(tokens: np.ndarray, vocabulary: Sequence[str]) -> str:
    """The characters of tokens `[time]`; what comes after the end of a row stands for none."""
    return "".join(vocabulary[int(token)] for token in tokens if token != _NOTHING)
