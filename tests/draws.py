"""Which keys a program draws from. Two draws that share a key are one draw: no two may, whatever they are for.

To split a key is to use it up as well: what is split is drawn from nowhere else.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import jax
import pytest

_SAMPLERS = ("bernoulli", "beta", "bits", "gumbel", "normal", "randint", "split", "uniform")

Keys = list[tuple[int, ...]]


@contextlib.contextmanager
def keys_drawn_from() -> Iterator[Keys]:
    """The words of the keys that samplers of `jax.random` are given meanwhile, also within compiled programs."""
    seen: Keys = []

    def watched(sampler):
        @functools.wraps(sampler)
        def draw(key, *args, **options):
            jax.debug.callback(lambda words: seen.append(tuple(words.tolist())), jax.random.key_data(key))
            return sampler(key, *args, **options)

        return draw

    jax.clear_caches()  # programs that were compiled before tell nothing
    with pytest.MonkeyPatch.context() as patch:
        for name in _SAMPLERS:
            patch.setattr(jax.random, name, watched(getattr(jax.random, name)))
        yield seen
        jax.effects_barrier()
    jax.clear_caches()


def assert_all_differ(keys: Keys, *, at_least: int) -> None:
    assert len(keys) >= at_least, "some draws were not seen"
    assert len(set(keys)) == len(keys), f"{len(keys)} draws share {len(set(keys))} keys"
