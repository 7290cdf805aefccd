"""What trained weights there are: those that ship, and those of others that are known."""

from __future__ import annotations

import fnmatch
from typing import Any

from train.publishing.cards import as_facts, facts_of
from train.publishing.headline import headline
from train.publishing.shipping import LICENCE
from zoo import published
from zoo.pretrained.known import KNOWN


def shipped(pattern: str = "*") -> list[dict[str, Any]]:
    """A row for each model that ships, of those whose name, or that of the network, matches a wildcard."""
    rows = []
    for name in published.shipped_models():
        facts = facts_of(published.SHIPPED / name)
        assert facts.recipe is not None
        if fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(facts.meta["model"], pattern):
            found = headline(facts.recipe.task, facts.report)
            words = "" if found is None else f"{found.words} ({found.split})"
            rows.append({**as_facts(facts, name), "reached": words, "licence": LICENCE})
    return rows


def known(pattern: str = "*") -> list[dict[str, str]]:
    """A row for each model of others whose weights are known, of those whose name matches a wildcard."""
    return [{"model": name, **row._asdict()} for name, row in KNOWN.items() if fnmatch.fnmatch(name, pattern)]
