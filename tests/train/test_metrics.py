"""Metrics merge exactly, however a batch is cut."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from train.metrics import Mean, merge, summarize, weigh

BATCH = 12
sweep = settings(max_examples=40, deadline=None)
# Multiples of 1/8 below 2¹⁰ add up in float32 without rounding, so that "exactly" can be taken at its word.
eighths = hnp.arrays(np.float32, BATCH, elements=st.integers(-(2**13), 2**13).map(lambda i: i / 8))
masks = hnp.arrays(np.float32, BATCH, elements=st.sampled_from([0.0, 1.0]))
cuts = st.lists(st.integers(0, BATCH), max_size=4).map(sorted)


@sweep
@given(eighths, eighths, masks, cuts)
def test_any_split_of_the_batch_merges_to_the_whole(loss, accuracy, mask, cuts):
    whole = weigh({"loss": loss, "accuracy": accuracy}, mask)
    np.testing.assert_array_equal(whole["loss"].total, (loss * mask).sum())
    np.testing.assert_array_equal(whole["loss"].weight, mask.sum())
    edges = [0, *cuts, BATCH]
    parts = [weigh({"loss": loss[a:b], "accuracy": accuracy[a:b]}, mask[a:b]) for a, b in itertools.pairwise(edges)]
    merged = functools.reduce(merge, parts)
    for name in whole:
        np.testing.assert_array_equal(merged[name].total, whole[name].total)
        np.testing.assert_array_equal(merged[name].weight, whole[name].weight)
    backwards = functools.reduce(merge, reversed(parts))
    np.testing.assert_array_equal(backwards["loss"].total, whole["loss"].total)


@sweep
@given(eighths, masks.filter(lambda m: m.any()))
def test_the_summary_is_the_mean_of_what_the_mask_keeps(values, mask):
    wanted = values[mask == 1].mean(dtype=np.float64)
    assert summarize(weigh({"loss": values}, mask)) == {"loss": pytest.approx(wanted, rel=1e-6)}


def test_without_a_mask_every_example_counts_once():
    values = np.random.default_rng(0).normal(size=100).astype(np.float32)
    metrics = weigh({"loss": values, "accuracy": values > 0})
    assert float(metrics["loss"].weight) == 100
    summary = summarize(metrics)
    assert summary == {"loss": pytest.approx(values.mean(), rel=1e-5), "accuracy": pytest.approx((values > 0).mean())}
    assert all(type(value) is float for value in summary.values())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [bool, np.int32, np.float32])
def test_masked_examples_may_hold_anything(bad, kind):
    values = jnp.array([1.0, bad, 3.0, bad])
    mask = np.array([1, 0, 1, 0], kind)
    assert summarize(weigh({"loss": values}, mask)) == {"loss": 2.0}
    slope = jax.grad(lambda v: weigh({"loss": v}, mask)["loss"].total)(values)
    np.testing.assert_array_equal(slope, [1, 0, 1, 0])


def test_what_the_mask_keeps_is_not_hidden():
    assert np.isnan(summarize(weigh({"loss": jnp.array([1.0, np.nan])}, np.array([1, 1])))["loss"])


def test_booleans_and_half_precision_are_counted_in_float32():
    many = weigh({"accuracy": np.ones(5000, bool), "loss": jnp.ones(5000, jnp.float16)})
    assert {leaf.dtype for leaf in jax.tree.leaves(many)} == {jnp.dtype("float32")}
    assert summarize(many) == {"accuracy": 1.0, "loss": 1.0}
    assert float(many["loss"].total) == 5000  # float16 counts to 2048 alone


def test_values_with_more_axes():
    """A mask of the same shape, as over the tokens of sequences."""
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    mask = np.tri(3, 4, dtype=np.float32)
    metrics = weigh({"loss": values}, mask)
    assert float(metrics["loss"].weight) == 6
    assert summarize(metrics) == {"loss": pytest.approx((values * mask).sum() / 6)}


def test_leading_axes_are_summed_in_float64():
    """2²⁴ + 1 is no float32: summed there, the small totals would vanish."""
    totals = np.float32([2**24, *([1] * 1000)])
    metrics = {"loss": Mean(totals, np.ones(1001, np.float32))}
    assert summarize(metrics) == {"loss": (2**24 + 1000) / 1001}
    stacked = {"loss": Mean(totals.reshape(7, 11, 13), np.ones((7, 11, 13), np.float32))}
    assert summarize(stacked) == summarize(metrics)


def test_batches_of_unequal_weight_are_weighed():
    first, second = weigh({"loss": np.float32([1, 1, 1])}), weigh({"loss": np.float32([5])})
    assert summarize(merge(first, second)) == {"loss": 2.0}
    stacked = jax.tree.map(lambda *parts: np.stack(parts), first, second)
    assert summarize(stacked) == {"loss": 2.0}


def test_under_jit_and_scan():
    values = np.random.default_rng(0).integers(0, 9, (5, 4)).astype(np.float32)
    _, metrics = jax.jit(lambda v: jax.lax.scan(lambda c, row: (c, weigh({"loss": row})), 0, v))(values)
    assert metrics["loss"].total.shape == (5,)
    assert summarize(metrics) == {"loss": pytest.approx(values.mean())}
