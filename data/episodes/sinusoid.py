"""Sine waves, each a task of regression (Finn et al. 2017, section 5.1)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from data.dataset import ArraySource, Batch, Dataset, Field, Spec
from data.registry import register

if TYPE_CHECKING:
    import jax  # whoever but asks for a data set need not wait for it


class WaveSource(ArraySource):
    """Tasks by number, each a pure function of (seed, number).

    Args:
        shots: points that are learned from.
        queries: points that are told.
        episodes: how many tasks there are.
        seed: of the draws.
    """

    def __init__(self, shots: int, queries: int, episodes: int, seed: int):
        self.arrays = {}
        self._shots, self._queries, self._episodes, self._seed = shots, queries, episodes, seed

    def __len__(self) -> int:
        return self._episodes

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        import jax

        return jax.tree.map(np.asarray, jax.jit(self.gather)({}, np.asarray(indices, np.int32)))

    def gather(self, arrays: Any, indices: Any) -> Any:
        """`support_inputs`, `support_target` [episode, shots, 1], and `query_inputs` and `query_target`."""

        import jax
        import jax.numpy as jnp

        def draw(index: jax.Array) -> tuple[jax.Array, jax.Array]:
            keys = jax.random.split(jax.random.fold_in(jax.random.key(self._seed), index), 3)
            amplitude = jax.random.uniform(keys[0], minval=0.1, maxval=5.0)
            phase = jax.random.uniform(keys[1], maxval=math.pi)
            x = jax.random.uniform(keys[2], (self._shots + self._queries, 1), minval=-5.0, maxval=5.0)
            return x, amplitude * jnp.sin(x - phase)

        x, y = jax.vmap(draw)(jnp.asarray(indices))
        shots = self._shots
        parts = {"support_inputs": x[:, :shots], "support_target": y[:, :shots]}
        return {**parts, "query_inputs": x[:, shots:], "query_target": y[:, shots:]}


@register("sinusoid")
def sinusoid(
    *,
    shots: int = 10,
    queries: int = 10,
    test_shots: int | None = None,
    episodes: int = 100_000,
    test_episodes: int = 600,
    seed: int = 0,
) -> Dataset:
    """Regression of A sin(x − φ): A from U[0.1, 5], φ from U[0, π], x from U[−5, 5]; a new wave in each task.

    Args:
        shots: points that are learned from.
        queries: points that are told.
        test_shots: `shots` in validation and test, where they are others.
        episodes: different tasks in training; an epoch sees each once.
        test_episodes: tasks of the test.
        seed: of the tasks in training; those of validation and test are always the same.

    Raises:
        ValueError: if a number is less than 1.
    """
    numbers = {"shots": shots, "queries": queries, "episodes": episodes, "test_episodes": test_episodes}
    for name, value in {**numbers, "test_shots": 1 if test_shots is None else test_shots}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    fields = {
        f"{part}_{name}": Field((each, 1), "float32")
        for part, each in (("support", shots), ("query", queries))
        for name in ("inputs", "target")
    }
    told = test_shots or shots
    return Dataset(
        name="sinusoid",
        spec=Spec(fields),
        splits={
            "train": WaveSource(shots, queries, episodes, seed),
            "validation": WaveSource(told, queries, min(test_episodes, 200), 2**32 - 2),
            "test": WaveSource(told, queries, test_episodes, 2**32 - 3),
        },
        preprocess=lambda batch: batch,
    )
