"""Three searches that learn from values alone: random search, aging evolution, REINFORCE.

An architecture is a tuple of choices, whole numbers from 0 below `sizes[i]`. A search is a generator: it yields an
architecture and is sent its value, of which more is better. It draws by its seed and by what it was sent, and nothing
else: one that was interrupted goes on by being sent the values that are known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

Architecture = tuple[int, ...]

Search = Generator[Architecture, float, None]


def random_search(sizes: Sequence[int], seed: int) -> Search:
    """Each architecture alike, whatever came before."""
    rng = np.random.default_rng(seed)
    while True:
        yield _drawn(sizes, rng)


def evolution(sizes: Sequence[int], seed: int, *, population: int = 20, sample: int = 5) -> Search:
    """Aging evolution (Real et al. 2019, algorithm 1): the best of a sample has a child, and the oldest dies.

    A child differs from its parent in one choice.

    Args:
      sizes: of the choices.
      seed: of the draws.
      population: how many live.
      sample: how many of them are drawn, with replacement, for the best to be a parent.

    Raises:
      ValueError: a population or a sample is empty, or no choice has two values, so that nothing can change.
    """
    if population < 1 or sample < 1:
        raise ValueError(f"population and sample must be at least 1, not {population} and {sample}")
    changeable = _changeable(sizes)
    rng = np.random.default_rng(seed)
    members: deque[tuple[Architecture, float]] = deque()
    while len(members) < population:
        architecture = _drawn(sizes, rng)
        value = yield architecture
        members.append((architecture, value))
    while True:
        parent, _ = max((members[rng.integers(population)] for _ in range(sample)), key=lambda member: member[1])
        place = int(rng.choice(changeable))
        other = int(rng.integers(sizes[place] - 1))
        child = (*parent[:place], other + (other >= parent[place]), *parent[place + 1 :])
        value = yield child
        members.append((child, value))
        members.popleft()


class Controller(nn.Module):
    """A recurrent network that makes one choice after the other (Zoph, Le 2017, section 3.2)."""

    sizes: tuple[int, ...]
    hidden_size: int = 32

    @nn.compact
    def __call__(self, key: jax.Array, chosen: jax.Array | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Draws choices, or goes through those that are given: `[choices]`.

        Returns:
          The choices, the logarithm of their probability, and the entropy of the draws.
        """
        cell = nn.OptimizedLSTMCell(self.hidden_size)
        carry = cell.initialize_carry(jax.random.key(0), (self.hidden_size,))
        inputs = self.param("start", nn.initializers.normal(0.1), (self.hidden_size,))
        choices, log_probability, entropy = [], jnp.float32(0), jnp.float32(0)
        for index, size in enumerate(self.sizes):
            carry, output = cell(carry, inputs)
            log_probabilities = jax.nn.log_softmax(nn.Dense(size, name=f"choice{index}")(output))
            drawn = jax.random.categorical(jax.random.fold_in(key, index), log_probabilities)
            choice = drawn if chosen is None else chosen[index]
            log_probability += log_probabilities[choice]
            entropy -= (jnp.exp(log_probabilities) * log_probabilities).sum()
            inputs = nn.Embed(size, self.hidden_size, name=f"embedding{index}")(choice[None])[
                0
            ]  # a table of one row takes no scalar
            choices.append(choice)
        return jnp.stack(choices), log_probability, entropy


def reinforce(
    sizes: Sequence[int],
    seed: int,
    *,
    batch: int = 5,
    learning_rate: float = 0.01,
    baseline_decay: float = 0.9,
    entropy_weight: float = 0.01,
) -> Search:
    """REINFORCE (Williams 1992) with a recurrent controller: ∇ = mean (R − b) ∇ log p, b a moving average of R.

    Advantages are divided by a moving standard deviation of R, so that the unit of the value does not matter.

    Args:
      sizes: of the choices.
      seed: of the controller and its draws.
      batch: architectures for each update.
      learning_rate: of Adam.
      baseline_decay: of the moving averages.
      entropy_weight: times the entropy of the draws, which is wanted too.

    Raises:
      ValueError: the batch is empty, or no choice has two values.
    """
    if batch < 1:
        raise ValueError(f"batch of REINFORCE must be at least 1, not {batch}")
    _changeable(sizes)
    controller, tx = Controller(tuple(sizes)), optax.adam(learning_rate)
    params, root = controller.init(jax.random.key(seed), jax.random.key(0)), jax.random.key(seed)
    memory = tx.init(params)
    draw = jax.jit(lambda params, key: controller.apply(params, key)[0])

    @jax.jit
    def update(params, memory, chosen, advantages):
        def objective(params):
            def one(chosen, advantage):
                _, log_probability, entropy = cast(Any, controller.apply(params, root, chosen))
                return -advantage * log_probability - entropy_weight * entropy

            return jax.vmap(one)(chosen, advantages).mean()

        updates, memory = tx.update(jax.grad(objective)(params), memory, params)
        return optax.apply_updates(params, updates), memory

    number, mean, variance = 0, None, 0.0
    while True:
        chosen, values = [], []
        for _ in range(batch):
            architecture = tuple(map(int, draw(params, jax.random.fold_in(root, number))))
            values.append((yield architecture))
            chosen.append(architecture)
            number += 1
        if mean is None:
            mean, variance = float(np.mean(values)), float(np.var(values))
        advantages = (np.asarray(values) - mean) / max(np.sqrt(variance), 1e-8)
        params, memory = update(params, memory, np.asarray(chosen, np.int32), advantages.astype(np.float32))
        variance = baseline_decay * variance + (1 - baseline_decay) * float(np.mean((np.asarray(values) - mean) ** 2))
        mean = baseline_decay * mean + (1 - baseline_decay) * float(np.mean(values))


SEARCHES: dict[str, Callable[[Sequence[int], int], Search]] = {
    "random": random_search,
    "evolution": evolution,
    "reinforce": reinforce,
}
"""By name."""


def short_evolution(trials: int) -> Callable[[Sequence[int], int], Search]:
    """Evolution with a population that leaves two thirds of so few trials to it."""
    return partial(evolution, population=max(2, min(20, trials // 3)), sample=max(2, min(5, trials // 6)))


def _drawn(sizes: Sequence[int], rng: np.random.Generator) -> Architecture:
    return tuple(int(rng.integers(size)) for size in sizes)


def _changeable(sizes: Sequence[int]) -> list[int]:
    places = [place for place, size in enumerate(sizes) if size > 1]
    if not places:
        raise ValueError("the space is empty: no choice has two values or more")
    return places
