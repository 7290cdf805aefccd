"""Which batch is the best, what is compared, and what the tables say."""

from __future__ import annotations

import csv

import pytest

from tests.accelerator import tables
from tests.accelerator.cases import Case, Generation, Model

MODEL = Model("net", "net", "text", 10, flops=1e9)


def row(framework, batch, step=None, status="ok", **facts):
    result = {"status": status, "step": step, **facts}
    return tables.training_row(Case(MODEL, batch), framework, result, peak=1e12)


def test_a_row_counts_tokens_and_the_share_of_the_peak():
    made = row(tables.OURS, 4, 0.5, peak_memory=2**31, loss=1.0, compile_seconds=9.0)
    assert made["rate"] == 4 * 10 / 0.5
    assert made["mfu"] == pytest.approx(4 * 1e9 / 0.5 / 1e12)
    assert made["peak_memory_gib"] == 2
    assert made["step_ms"] == 500
    assert set(made) == set(tables.COLUMNS)


def test_a_row_of_texts_counts_all_of_them():
    made = tables.generation_row(Generation(8, 4, 16, {}), tables.OURS, {"status": "ok", "step": 2.0})
    assert made["rate"] == 8 * 16 / 2


def test_each_is_taken_at_its_own_best_batch():
    rows = [
        *(row(tables.OURS, 2, 1.0), row(tables.OURS, 4, 1.5), row(tables.THEIRS, 2, 1.0), row(tables.THEIRS, 4, 2.5)),
    ]
    ((ours, theirs),) = tables.best(rows)
    assert (ours["batch"], theirs["batch"]) == (4, 2)
    assert tables.equal(rows) == {("train step", "net", 2): 1.0, ("train step", "net", 4): pytest.approx(2.5 / 1.5)}


def test_a_batch_that_one_had_no_time_for_is_not_compared_and_one_without_memory_is():
    rows = [row(tables.OURS, 2, 1.0), row(tables.OURS, 4, 1.5), row(tables.THEIRS, 2, 1.0)]
    late = row(tables.THEIRS, 4, status="not tried: no time to compile it")
    full = row(tables.THEIRS, 4, status="out of memory")
    assert tables.best([*rows, late])[0][0]["batch"] == 2
    assert tables.best([*rows, full])[0][0]["batch"] == 4
    assert tables.equal([*rows, full]) == {("train step", "net", 2): 1.0}


def test_where_one_has_nothing_nothing_is_compared():
    rows = [row(tables.OURS, 2, 1.0), row(tables.THEIRS, 2, status="ValueError: no")]
    assert tables.best(rows) == []
    assert [tables.broken(each) for each in rows] == [False, True]
    assert not tables.broken(row(tables.OURS, 2, status="not measured: no time was left"))


def test_the_tables_name_all_rows_and_hold_what_a_pipe_would_break(tmp_path):
    rows = [row(tables.OURS, 2, 1.0, notes="a|b"), row(tables.THEIRS, 2, status="out of memory")]
    text = tables.table_of_all(rows)
    assert "out of memory" in text
    assert {line.count("|") for line in text.splitlines()} == {11}
    tables.write_csv(tmp_path / "rows.csv", rows)
    with (tmp_path / "rows.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [each["framework"] for each in read] == [tables.OURS, tables.THEIRS]
    assert "net, train step | 20 tokens/s (batch 2) | 10 tokens/s (batch 2) | 2.00" in tables.table_of_best(
        [rows[0], row(tables.THEIRS, 2, 2.0)]
    )
