"""Evaluators that train nothing, for processes too; and a search that kills itself, run by test_tuning.py.

usage: evaluators.py FOLDER TRIAL EVALUATION: trains, and is killed before this evaluation of this trial is told.
"""

import os
import signal
import sys
from pathlib import Path

from train.search.evaluation import Outcome, one_by_one

SETTINGS = [
    *("epochs=4", "checkpoint_every=1", "model_options.dropout_rate=0.1"),
    *("model_options.hidden_sizes=[8],[8, 8]", "learning_rate=log:1e-3..1e-1"),
]


def loss(recipe, evaluations):
    return abs(recipe.learning_rate - 3e-3) + 1 / evaluations


def all_at_once():
    """All candidates evaluation by evaluation, as one compiled program would; histories of eight rows."""

    def evaluate(candidates, tell):
        histories = {candidate.number: [] for candidate in candidates}
        going = list(candidates)
        for evaluations in range(1, 9):
            for candidate in list(going):
                history = histories[candidate.number]
                value = loss(candidate.recipe, evaluations)
                history.append({"step": float(evaluations), "validation_loss": value})
                if tell(candidate.number, history) and evaluations < 8:
                    going.remove(candidate)
                    yield Outcome(candidate.number, history, stopped=True)
        for candidate in going:
            yield Outcome(candidate.number, histories[candidate.number])

    return evaluate


def one_after_the_other():
    def evaluate(candidates, tell):
        for candidate in candidates:
            yield from all_at_once()([candidate], tell)

    return evaluate


def one_that_dies():
    """The process of trial 1 is killed, the first time."""

    def evaluate(candidates, tell):
        for candidate in candidates:
            if candidate.number == 1 and not candidate.folder.exists():
                candidate.folder.mkdir(parents=True)
                os.kill(os.getpid(), signal.SIGKILL)
            yield from all_at_once()([candidate], tell)

    return evaluate


def broken():
    raise SystemError("an evaluator that cannot be made")


if __name__ == "__main__":
    import train.recipes  # noqa: F401
    from train.recipe import get_recipe
    from train.search import tune

    folder, trial, evaluation = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

    def killed():
        def evaluate(candidates, tell):
            def tell_or_die(number, history):
                if (number, len(history)) == (trial, evaluation):
                    os.kill(os.getpid(), signal.SIGKILL)
                return tell(number, history)

            yield from one_by_one()(candidates, tell_or_die)

        return evaluate

    tune(get_recipe("mlp_digits"), folder, SETTINGS, trials=4, pruner="halving", evaluator=killed)
