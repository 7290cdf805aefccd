"""Searches by values: on the table of NAS-Bench-201, and by what they draw."""

import itertools

import numpy as np
import pytest

from train.architecture_search.methods import SEARCHES, evolution, random_search, reinforce
from train.architecture_search.space import CellSpace, derive, derive_bench, num_skips
from zoo.vision.cells import read_genotype

SIZES = (5,) * 6


def run(make, values, trials, seed):
    searching = make(SIZES, seed)
    architecture, seen = next(searching), []
    for _ in range(trials):
        seen.append((architecture, values(architecture)))
        architecture = searching.send(seen[-1][1])
    return seen


def test_evolution_beats_random_search_at_the_same_number_of_trials(nas_bench):
    def accuracy(architecture):
        return nas_bench["".join(map(str, architecture))]

    def best(make, trials):
        return np.array([max(value for _, value in run(make, accuracy, trials, seed)) for seed in range(10)])

    assert abs(best(random_search, 500).mean() - 91.33) < 0.15
    assert best(evolution, 500).mean() > 91.33 + 0.15
    assert best(evolution, 100).mean() > 91.03


@pytest.mark.slow
def test_reinforce_learns_what_is_rewarded():
    seen = run(lambda sizes, seed: reinforce(sizes, seed, learning_rate=0.05), lambda a: float(np.sum(a)), 200, 0)
    assert np.mean([value for _, value in seen[-40:]]) > np.mean([value for _, value in seen[:40]]) + 3


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "reinforce" else []) for name in SEARCHES]
)
def test_a_search_goes_on_from_the_values_that_are_known(name):
    def value(architecture):
        return float(architecture[0] - architecture[1])

    seen = run(SEARCHES[name], value, 12, 3)
    assert run(SEARCHES[name], value, 12, 3) == seen
    assert run(SEARCHES[name], value, 12, 4) != seen
    assert all(0 <= choice < 5 for architecture, _ in seen for choice in architecture)


def test_a_child_differs_from_a_living_parent_in_one_choice():
    seen = [a for a, _ in run(lambda s, seed: evolution(s, seed, population=4, sample=2), lambda a: 0.0, 30, 0)]
    for number in range(4, 30):
        living = seen[number - 4 : number]
        assert any(sum(x != y for x, y in zip(seen[number], parent, strict=True)) == 1 for parent in living)


@pytest.mark.parametrize("make", [evolution, reinforce])
def test_an_empty_space_is_refused(make):
    with pytest.raises(ValueError, match="the space is empty"):
        next(make((1, 1), 0))
    with pytest.raises(ValueError, match="the space is empty: operations must hold two or more"):
        len(CellSpace(("none", "skip_connect")).sizes)


def test_choices_make_all_genotypes_of_the_space():
    space = CellSpace(("none", "skip_connect", "sep_conv_3x3"), 2)
    assert space.sizes == (1, 2, 2, 3, 2, 2) * 2
    cells = {space.genotype((*cell, *cell)) for cell in itertools.product(*map(range, space.sizes[:6]))}
    assert len(cells) == 4 * 12
    assert all(read_genotype(genotype.plain()) == genotype for genotype in cells)


def test_a_cell_is_derived_as_by_hand():
    operations = ("none", "skip_connect", "sep_conv_3x3")
    weights = np.array(
        [
            [0.8, 0.15, 0.05],  # node 0, from 0: none does not count
            [0.2, 0.3, 0.5],  # from 1
            [0.1, 0.7, 0.2],  # node 1, from 0: skip
            [0.9, 0.04, 0.06],  # from 1: the weakest of the three
            [0.3, 0.4, 0.3],  # from 2: skip
        ]
    )
    cell = (("skip_connect", 0), ("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 2))
    assert derive(weights, operations) == cell
    assert num_skips(cell) == 3
    # Without the weakest skip, of weight .15, that edge has its convolution.
    assert derive(weights, operations, max_skips=2) == (("sep_conv_3x3", 0), *cell[1:])
    # Then without that of weight .4, from 2: a convolution of weight .3 there.
    assert derive(weights, operations, max_skips=1)[2:] == (("skip_connect", 0), ("sep_conv_3x3", 2))
    with pytest.raises(ValueError, match="weights must be"):
        derive(weights[:4], operations)


def test_a_cell_of_the_benchmark_keeps_its_strongest_skips():
    weights = np.array([[0.1, 0.6, 0.3], [0.1, 0.5, 0.4], [0.5, 0.1, 0.4], [0.0, 0.9, 0.1]])
    operations = ("none", "skip_connect", "nor_conv_1x1")
    assert derive_bench(weights, operations) == ("skip_connect", "skip_connect", "none", "skip_connect")
    limited = derive_bench(weights, operations, max_skips=2)
    assert limited == ("skip_connect", "nor_conv_1x1", "none", "skip_connect")
