"""Decoding: from a source to its most probable target, by one compiled loop over the decoder's cache."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import data
from data.text.tokens import END, PAD, START
from train.loop.feed import padded_rows
from zoo.text.transformer import Memory, Transformer


class Decoded(NamedTuple):
    """Targets for a batch of sources, the best first.

    Attributes:
      tokens: integer `[batch, beams, time]`, with the end token, and then `data.text.tokens.PAD`.
      log_probability: of each target, in nats, `[batch, beams]`.
    """

    tokens: jax.Array
    log_probability: jax.Array


class _Loop(NamedTuple):
    time: jax.Array
    tokens: jax.Array
    last: jax.Array
    log_probability: jax.Array
    finished: jax.Array
    state: Any


@partial(jax.jit, static_argnums=(0,), static_argnames=("max_length", "beams"))
def decode(
    model: Transformer,
    variables: Any,
    source: jax.Array,
    *,
    max_length: int,
    beams: int = 1,
    length_penalty: float = 0.6,
) -> Decoded:
    """Beam search; with one beam it is greedy decoding.

    At each step the `beams` most probable continuations of all are kept; a target that has ended stays as it is and
    takes a place among them. At the end they are ordered by log p / ((5 + length) / 6)^`length_penalty` (Wu et al.
    2016, eq. 14; Vaswani et al. 2017 take 4 beams and 0.6).

    Args:
      model: an encoder and decoder.
      variables: what its `apply` takes.
      source: integer `[batch, time]`.
      max_length: of a target, with its end token; what has not ended by then ends there.
      beams: how many targets are followed, and returned.
      length_penalty: how much longer targets are favoured; 0 orders by log p.

    Raises:
      ValueError: the model cannot hold targets of `max_length`, or a number makes no sense.
    """
    if beams < 1 or not 1 <= max_length <= model.max_len:
        raise ValueError(
            f"beams must be at least 1 and max_length from 1 to {model.max_len} (the model's max_len), not {beams} and "
            f"{max_length}"
        )
    batch = source.shape[0]
    memory: Any = model.apply(variables, source, method="encode")
    memory = Memory(*(jnp.repeat(part, beams, axis=0) for part in memory))
    never = jnp.array([PAD, START])

    def step(loop: _Loop) -> _Loop:
        last = loop.last.reshape(batch * beams, 1)
        output: Any = model.apply(variables, last, memory, loop.state, method="decode")
        logits, state = output
        scores = logits[:, 0].astype(jnp.float32).at[:, never].set(-jnp.inf)
        scores = jax.nn.log_softmax(scores).reshape(batch, beams, -1)
        stay = jnp.full(scores.shape[-1], -jnp.inf).at[PAD].set(0)
        scores = jnp.where(loop.finished[..., None], stay[None, None], scores)
        vocab_size = scores.shape[-1]
        total = (loop.log_probability[..., None] + scores).reshape(batch, -1)
        log_probability, best = lax.top_k(total, beams)
        parent, token = best // vocab_size, best % vocab_size
        tokens, finished = loop.tokens, loop.finished
        if beams > 1:  # each beam goes on from its parent's tokens and cache
            row = (jnp.arange(batch)[:, None] * beams + parent).reshape(-1)
            state = jax.tree.map(lambda leaf: leaf[row] if leaf.ndim else leaf, state)
            tokens = jnp.take_along_axis(tokens, parent[..., None], axis=1)
            finished = jnp.take_along_axis(finished, parent, axis=1)
        tokens = lax.dynamic_update_slice_in_dim(tokens, token[..., None].astype(tokens.dtype), loop.time, axis=2)
        return _Loop(loop.time + 1, tokens, token, log_probability, finished | (token == END), state)

    start = _Loop(
        time=jnp.int32(0),
        tokens=jnp.full((batch, beams, max_length), PAD, jnp.int32),
        last=jnp.full((batch, beams), START, jnp.int32),
        # At first all beams are the same: one alone counts.
        log_probability=jnp.broadcast_to(jnp.where(jnp.arange(beams) > 0, -jnp.inf, 0.0), (batch, beams)),
        finished=jnp.zeros((batch, beams), bool),
        state=model.init_state(batch * beams),
    )
    end = lax.while_loop(lambda loop: (loop.time < max_length) & ~loop.finished.all(), step, start)
    lengths = (end.tokens != PAD).sum(axis=-1)
    order = jnp.argsort(-end.log_probability / ((5 + lengths) / 6) ** length_penalty, axis=-1)
    return Decoded(
        jnp.take_along_axis(end.tokens, order[..., None], axis=1),
        jnp.take_along_axis(end.log_probability, order, axis=1),
    )


def exact_match(
    model: Transformer,
    variables: Any,
    dataset: data.Dataset,
    split: str,
    *,
    inputs: str = "inputs",
    batch_size: int = 256,
) -> float:
    """The share of a split's sources whose target greedy decoding finds, every token of it."""
    source, right = dataset.splits[split], 0
    for rows in padded_rows(len(source), min(len(source), batch_size)):
        batch = dataset.preprocess(source[np.maximum(rows, 0)])
        targets = np.asarray(batch["targets"])
        found = decode(model, variables, jnp.asarray(batch[inputs]), max_length=targets.shape[1])
        right += int(((np.asarray(found.tokens[:, 0]) == targets).all(axis=1) & (rows >= 0)).sum())
    return right / len(source)
