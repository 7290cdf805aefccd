"""How a trained run becomes a model that ships with the package: `python -m train.publishing.shipping RUN…`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.inference.evaluation import examine, load_with_data
from train.inference.fidelity import fidelity
from train.publishing.cards import Facts, facts_of
from train.publishing.folder import publish, write_card, write_report
from train.publishing.headline import Headline, headline
from zoo.published import SHIPPED

LICENCE = "apache-2.0"
"""Of all that ships."""

MOST_BYTES = 12_000_000
"""Of all that ships, together."""

JUDGES = {"digits": "lenet5_digits", "mnist": "lenet5_mnist"}
"""Classifiers that ship, by the data whose likeness is judged."""

_LEAST_CHANGE = 1e-3
"""float32 is kept where float16 changes the headline figure by a greater share of it."""


def ship(run: str | Path) -> Facts:
    """Makes a run of a named recipe the model that ships under this name, in place of the one that was there.

    The numbers are kept as float16 where the headline figure of the report stays. The metrics of the report and of the
    card are those of the file, evaluated anew.

    Raises:
      ValueError: the run is of no recipe of `zoo recipes`, or all that ships gets too large.
    """
    facts = facts_of(run)
    if not facts.recipe_name:
        raise ValueError(f"{run} is a run of no recipe of `zoo recipes`; only what can be made anew ships")
    folder = SHIPPED / facts.recipe_name
    with tempfile.TemporaryDirectory() as made:
        for half in (True, False):
            place = Path(made) / f"half={half}" / folder.name
            publish(facts.folder, place, facts.recipe_name, licence=LICENCE, half=half)
            if _alike(facts, _measured(place)):
                break
        size = _bytes_in(SHIPPED) - _bytes_in(folder) + _bytes_in(place)
        if size > MOST_BYTES:
            raise ValueError(f"all that ships would have {size:,} bytes, of at most {MOST_BYTES:,}")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(place, folder)
    write_card(folder, facts.recipe_name, licence=LICENCE)
    return facts_of(folder)


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _measured(folder: Path) -> Facts:
    """With the metrics of the file in place of those of the run."""
    facts = facts_of(folder)
    run = load_with_data(folder)
    split = "test" if "test" in run.dataset.splits else "validation"
    if split in run.dataset.splits:
        rest = {n: v for n, v in facts.report.items() if not n.startswith(f"{split}_") and n not in _LATER}
        later = {name: facts.report[name] for name in _LATER if name in facts.report and name != "classes"}
        drawn = _drawn(folder, facts, split)
        report = {"recipe": facts.recipe_name, **rest, **drawn, **examine(run, split).report, **later}
        write_report(folder, report)
    return facts_of(folder)


def _drawn(folder: Path, facts: Facts, split: str) -> dict[str, Any]:
    """What a classifier that ships says of the images that a GAN or a diffusion model draws."""
    assert facts.recipe is not None
    if facts.recipe.task not in ("gan", "diffusion"):
        return {}
    found = fidelity(folder, SHIPPED / JUDGES[facts.recipe.data], split)
    return {f"{split}_{name}": value for name, value in found.items() if isinstance(value, float)}


_LATER = ("classes", "conditions")


def _figure(facts: Facts) -> Headline | None:
    assert facts.recipe is not None
    return headline(facts.recipe.task, facts.report)


def _alike(before: Facts, after: Facts) -> bool:
    """Whether a file does what its run did."""
    found = _figure(after)
    if found is None:
        return True
    metric = found.metric if found.metric in before.report else f"{found.split}_loss"  # a run draws no images itself
    first, second = before.report[metric], after.report[metric]
    return abs(first - second) <= _LEAST_CHANGE * abs(first)


def main(runs: Sequence[str]) -> None:
    """Ships each run, and says what came of it."""
    for run in runs:
        facts = ship(run)
        found = _figure(facts)
        words = "" if found is None else f": {found.words} on the {found.split} split"
        print(f"{facts.folder}{words}, {facts.meta.get('stored', 'float32')}")


if __name__ == "__main__":
    main(sys.argv[1:])
