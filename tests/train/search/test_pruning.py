"""Successive halving and Hyperband against Optuna's own, whose pruners decide by the same algorithm."""

from collections import Counter

import numpy as np
import optuna
import pytest

from train.search.pruning import bracket, is_pruned

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("maximize", [False, True])
def test_successive_halving_decides_as_optuna_does(maximize):
    """A trial after the other, and each told of all its evaluations until it is pruned."""
    length, rng = 30, np.random.default_rng(0)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    study = optuna.create_study(pruner=pruner, direction="maximize" if maximize else "minimize")
    ours, lengths = [], []
    for number in range(60):
        trial, values = study.ask(), {}
        ours.append((number, values))
        value = rng.normal()
        for evaluations in range(1, length + 1):
            value += 0.2 * rng.normal()
            trial.report(value, evaluations)
            values[evaluations] = value
            pruned = is_pruned("halving", number, evaluations, ours, length=length, maximize=maximize)
            assert pruned == trial.should_prune(), (number, evaluations)
            if pruned:
                break
        lengths.append(evaluations)
        study.tell(trial, value if evaluations == length else None, state=None if evaluations == length else PRUNED)
    assert set(lengths) == {1, 3, 9, 27, 30}
    assert Counter(lengths)[1] > 30


PRUNED = optuna.trial.TrialState.PRUNED


def test_hyperband_gives_the_brackets_their_shares():
    counts = Counter(bracket("hyperband", number, 50) for number in range(490))
    assert [round(counts[s] / 10) for s in range(4)] == [27, 12, 6, 4]
    assert set(Counter(bracket("hyperband", number, 50) for number in range(12))) == {0, 1, 2, 3}
    assert {bracket("hyperband", number, 2) for number in range(20)} == {0}
    assert {bracket("none", number, 50) for number in range(9)} == {None}


def test_a_trial_competes_in_its_bracket_alone():
    numbers = [n for n in range(60) if bracket("hyperband", n, 50) == 1]
    others = [(n, {1: 0.0, 3: 0.0}) for n in range(60) if n != numbers[-1]]
    worse = [*others, (numbers[-1], {1: 1.0, 3: 1.0})]
    assert not is_pruned("hyperband", numbers[-1], 1, worse, length=50, maximize=False), "its first look is at 3"
    assert is_pruned("hyperband", numbers[-1], 3, worse, length=50, maximize=False)
    alone = [(n, v) for n, v in worse if bracket("hyperband", n, 50) != 1 or n == numbers[-1]]
    assert not is_pruned("hyperband", numbers[-1], 3, alone, length=50, maximize=False)


def test_a_trial_without_a_value_is_pruned_and_one_at_its_end_is_not():
    trials = [(0, {1: 1.0}), (1, {})]
    assert is_pruned("halving", 1, 1, trials, length=9, maximize=False)
    assert not is_pruned("halving", 1, 9, trials, length=9, maximize=False)
    assert not is_pruned("none", 1, 1, trials, length=9, maximize=False)
