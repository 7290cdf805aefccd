"""Checkpoints: damage, full disks, what is kept. Resumption after a kill is in test_killed.py."""

import contextlib
import json
import re
import resource
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import data
import zoo
from train.loop import parallel
from train.loop.checkpoints import CheckpointError, Checkpoints
from train.loop.fitting import DivergedError, fit
from train.precision import LossScale
from train.tasks import classification
from zoo.checkpoint import best_first

META = {"model": "mlp", "model_options": {"hidden_sizes": [4]}}
one_device = parallel.jit(jax.devices()[:1])
BATCH = {"image": jnp.zeros((1, 6)), "label": jnp.zeros(1, jnp.int32)}


def make_state(seed=0, **options):
    task = classification(zoo.create_model("mlp", hidden_sizes=(4,)), optax.adam(1e-3), **options)
    return task.init(jax.random.key(seed), BATCH)


def assert_equal(a, b):
    a, b = (jax.tree.map(np.asarray, (s.step, s.params, s.opt_state, s.ema, s.loss_scale)) for s in (a, b))
    chex.assert_trees_all_equal(a, b)


def history(*losses):
    return [{"step": float(i), "loss": loss, "seconds": 0.5} for i, loss in enumerate(losses, start=1)]


@pytest.fixture
def run(tmp_path):
    """Three checkpoints: steps 1, 2 and 3; the second is the best."""
    checkpoints = Checkpoints(tmp_path, META, keep=2)
    losses = [0.5, 0.1, 0.3]
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step), history(*losses[:step]))
    checkpoints.wait()
    yield tmp_path, checkpoints
    with contextlib.suppress(CheckpointError):  # of the test that fills the disk
        checkpoints.close()


def steps(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


@pytest.mark.slow
def test_the_last_and_the_best_are_kept(run):
    folder, checkpoints = run
    assert steps(folder) == [2, 3]
    for step, loss in ((4, 0.4), (5, 0.2)):
        checkpoints.save(step, make_state(step), history(0.5, 0.1, 0.3, 0.4, loss)[:step])
    checkpoints.wait()
    assert steps(folder) == [2, 4, 5]
    _, variables = zoo.load_model(folder)
    chex.assert_trees_all_equal(variables["params"], jax.device_get(make_state(2).params))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("losses", "saved"),
    [
        ([1.0, 1.0, 1.0, 1.0, 1.0], [1, 2, 4, 5]),
        ([3.0, 2.0, 1.0, 4.0, 5.0], [1, 2, 3, 4, 5]),
        ([np.nan, 2.0, np.inf, -np.inf, 3.0], [2, 4, 5]),
    ],
)
def test_every_second_evaluation_the_last_and_those_that_are_better(tmp_path, losses, saved):
    """What is not finite is better than nothing else."""
    checkpoints = Checkpoints(tmp_path, META, keep=9, every=2)
    for step in range(1, 6):
        checkpoints.save(step, make_state(), history(*losses[:step]), finished=5 if step == 5 else 0)
    checkpoints.close()
    assert steps(tmp_path) == saved


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "saved"), [(0.1, [1, 3, 4, 5]), (3.0, [1, 2, 3, 4, 5])])
def test_the_best_of_a_quick_training_waits_in_memory(tmp_path, monkeypatch, seconds, saved):
    """Until something is written after it: what is on disk is always enough to go on from."""
    checkpoints, clock = Checkpoints(tmp_path, META, keep=9, every=4), [0.0]
    monkeypatch.setattr("train.loop.checkpoints.time.monotonic", lambda: clock[0])
    losses = [5.0, 4.0, 3.0, 6.0, 1.0]
    for step in range(1, 6):
        clock[0] += seconds
        state = make_state(step)
        checkpoints.save(step, state, history(*losses[:step]))
        if step == 3:
            checkpoints._manager.wait_until_finished()
            assert steps(tmp_path) == [step for step in saved[:-2] if step == 1 or seconds > 2]
            jax.tree.map(lambda leaf: leaf.delete(), state.params)  # as training does, which donates it
    assert_equal(checkpoints.restore_best(make_state(0)), make_state(5))
    checkpoints.close()
    assert steps(tmp_path) == saved
    assert_equal(Checkpoints(tmp_path, META, keep=9).restore(make_state(0)).state, make_state(5))


@pytest.mark.slow
@pytest.mark.parametrize(("first", "best_is_highest"), [(np.nan, False), (np.nan, True), (np.inf, True)])
def test_what_is_no_number_is_never_the_best(tmp_path, first, best_is_highest):
    """Not even where it came first; the checkpoint of it goes."""
    checkpoints = Checkpoints(tmp_path, META, keep=1, best_is_highest=best_is_highest)
    values = [first, 0.5, first, np.nan]
    for step in range(1, 5):
        checkpoints.save(step, make_state(step), history(*values[:step]))
    checkpoints.close()
    assert steps(tmp_path) == [2, 4]
    assert best_first(tmp_path)[0].name == "2"


def test_of_equals_the_newest_is_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, META, keep=3)
    for step in (8, 9, 10):
        checkpoints.save(step, make_state(step), history(*[0.5] * step))
    checkpoints.close()
    assert [folder.name for folder in best_first(tmp_path)] == ["10", "9", "8"]


def test_what_is_added_to_the_history_later_is_not_in_the_checkpoint(tmp_path, monkeypatch):
    """Also where the background is slow to write it."""
    checkpoints, written = Checkpoints(tmp_path, META), []
    monkeypatch.setattr(checkpoints._manager, "save", lambda step, args, **options: written.append(args["meta"].item))
    rows = history(0.5)
    checkpoints.save(1, make_state(), rows)
    rows.append(rows[0])
    rows[0]["loss"] = 7.0
    assert written[0]["history"] == history(0.5)
    checkpoints.close()


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9, "loss_scaling": True}])
def test_the_whole_state_comes_back(tmp_path, options):
    checkpoints = Checkpoints(tmp_path, META)
    state = make_state(7, **options)
    assert checkpoints.restore(make_state(0, **options)) is None
    checkpoints.save(1, state, history(0.1), finished=True)
    checkpoints.wait()
    restored = checkpoints.restore(make_state(0, **options))
    checkpoints.close()
    assert_equal(restored.state, state)
    np.testing.assert_array_equal(jax.random.key_data(restored.state.key), jax.random.key_data(state.key))
    assert isinstance(restored.state.loss_scale, LossScale) == bool(options)
    assert restored.finished
    assert restored.history == history(0.1)


def test_an_average_without_statistics_is_refused_by_name(tmp_path):
    """As versions made it that averaged parameters alone."""
    checkpoints = Checkpoints(tmp_path, META)
    state = make_state(7, ema_decay=0.9)
    checkpoints.save(1, state.replace(ema=state.ema["params"]), history(0.1), finished=True)
    checkpoints.close()
    with pytest.raises(ValueError, match="no parameters, or an average of them that an older version made"):
        zoo.load_model(tmp_path)


@pytest.mark.slow
def test_a_checkpoint_of_one_plan_continues_under_another(tmp_path):
    state = make_state(7)
    for index, (save, load) in enumerate([("fsdp", "pmap"), ("pmap", "jit"), ("jit", "fsdp")]):
        checkpoints = Checkpoints(tmp_path / str(index), META)
        plan = parallel.plan(save)
        checkpoints.save(1, plan.unplace(plan.place(state)), history(0.1))
        checkpoints.wait()
        plan = parallel.plan(load)
        like = plan.unplace(plan.place(make_state(0)))
        restored = checkpoints.restore(like)
        checkpoints.close()
        assert_equal(plan.unplace(plan.place(restored.state)), state)


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder):
    for path in [p for p in (folder / "params").rglob("*") if p.is_file() and p.parent.name == "d"]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty_metadata(folder):
    (folder / "opt_state" / "_METADATA").write_bytes(b"")


def remove_item(folder):
    for path in sorted((folder / "opt_state").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (folder / "opt_state").rmdir()


def break_json(folder):
    (folder / "meta" / "metadata").write_text('{"history": [')


def other_arrays(folder):
    """Arrays of another step: all files can be read."""
    shutil.rmtree(folder / "params")
    shutil.copytree(folder.parent / "2" / "params", folder / "params")


def other_history(folder):
    path = folder / "meta" / "metadata"
    text = path.read_text()
    path.write_text(text.replace("0.3", "0.4", 1))
    assert path.read_text() != text


def empty_all_files(folder):
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        path.write_bytes(b"")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "damage", [truncate, empty_metadata, remove_item, break_json, empty_all_files, other_arrays, other_history]
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it_and_said_so(run, damage, caplog):
    folder, _ = run
    damage(folder / "checkpoints" / "3")
    checkpoints = Checkpoints(folder, META)
    restored = checkpoints.restore(make_state())
    assert_equal(restored.state, make_state(2))
    assert len(restored.history) == 2
    assert "checkpoint 3" in caplog.text
    assert "is damaged" in caplog.text
    assert "step 2" in caplog.text
    assert (folder / "checkpoints" / "damaged-3").is_dir()
    # The step can be written again, and is then the newest.
    checkpoints.save(3, make_state(9), history(0.5, 0.1, 0.2))
    checkpoints.wait()
    assert_equal(checkpoints.restore(make_state()).state, make_state(9))
    checkpoints.close()


def test_a_damaged_score_is_written_anew(run, caplog):
    folder, _ = run
    for step in steps(folder):
        (folder / "checkpoints" / str(step) / "metrics" / "metrics").write_bytes(b"")
    checkpoints = Checkpoints(folder, META)
    assert_equal(checkpoints.restore(make_state()).state, make_state(3))
    checkpoints.close()
    assert "the score of checkpoint 3 in" in caplog.text


def test_a_best_checkpoint_with_damaged_arrays_is_passed_over(run, caplog):
    folder, _ = run
    best, other = folder / "checkpoints" / "2", folder / "checkpoints" / "3"
    assert zoo.load_model(folder).folder == best
    shutil.rmtree(best / "params")
    shutil.copytree(other / "params", best / "params")
    loaded = zoo.load_model(folder)
    assert loaded.folder == other
    chex.assert_trees_all_equal(loaded.variables["params"], jax.tree.map(np.asarray, make_state(3).params))
    assert "is not what was written; it is passed over" in caplog.text


def test_the_best_is_taken_of_those_that_can_be_read(run, caplog):
    folder, _ = run
    best = best_first(folder)[0]
    break_json(best)
    assert best_first(folder)[0] != best
    assert "it is passed over" in caplog.text
    for step in steps(folder):
        break_json(folder / "checkpoints" / str(step))
    with pytest.raises(ValueError, match="is damaged"):
        best_first(folder)[0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_when_all_are_damaged_nothing_is_moved_and_the_error_says_why(run):
    folder, _ = run
    for step in steps(folder):
        break_json(folder / "checkpoints" / str(step))
    checkpoints = Checkpoints(folder, META)
    with pytest.raises(CheckpointError, match=r"none of the checkpoints in .* can be read; of step 3: .*damaged"):
        checkpoints.restore(make_state())
    checkpoints.close()
    assert steps(folder) == [2, 3]


def test_half_written_checkpoints_are_not_seen(run):
    folder, _ = run
    (folder / "checkpoints" / "4.orbax-checkpoint-tmp-1").mkdir()
    checkpoints = Checkpoints(folder, META)
    assert_equal(checkpoints.restore(make_state()).state, make_state(3))
    checkpoints.close()
    zoo.load_model(folder)


def test_a_disk_that_is_too_full_is_noticed_before_training(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, META)
    checkpoints.require_space(make_state())
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"has 0 MiB free, and the checkpoints of this run take"):
        checkpoints.require_space(make_state())
    state = make_state()
    each = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    usage.free = 5 * each  # room for the last two, the best and one that is being written
    checkpoints.require_space(state)
    usage.free = 4 * each
    with pytest.raises(CheckpointError, match="has 0 MiB free"):
        checkpoints.require_space(state)  # the step and the key are saved besides
    checkpoints.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_fills_up_leaves_the_earlier_checkpoints(run):
    folder, checkpoints = run
    # Writing past this size fails in the kernel, as it does on a full disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        checkpoints.save(4, make_state(4), history(0.5, 0.1, 0.3, 0.2))  # in the background
        with pytest.raises(CheckpointError, match=r"could not write a checkpoint to .* MiB free\): .*--resume"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    again = Checkpoints(folder, META)
    assert_equal(again.restore(make_state()).state, make_state(3))
    again.close()


def test_monitoring_what_is_not_there_names_what_is(tmp_path):
    checkpoints = Checkpoints(tmp_path, META, monitor="validation_accuracy")
    with pytest.raises(ValueError, match=re.escape("cannot monitor 'validation_accuracy': the history has step, loss")):
        checkpoints.save(1, make_state(), history(0.1))
    checkpoints.close()


@pytest.mark.parametrize("arguments", [{"keep": 0}, {"every": 0}])
def test_keeping_nothing_is_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="at least 1 checkpoint is kept"):
        Checkpoints(tmp_path, META, **arguments)


def test_meta_is_plain_json(run):
    folder, _ = run
    meta = json.loads((folder / "checkpoints" / "3" / "meta" / "metadata").read_text())
    expected = {**META, "score": -0.3, "history": history(0.5, 0.1, 0.3), "finished": False}
    assert {name: meta[name] for name in expected} == expected


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.slow
def test_a_loss_that_is_no_number_leaves_the_last_good_checkpoint(tmp_path):
    digits = data.load("digits", flat=True, validation=0.1)
    # The rate explodes in step 51; the parameters are no numbers after it, and the loss is not in step 52.
    tx = optax.sgd(lambda step: jnp.where(step < 50, 0.05, jnp.inf))
    task = classification(zoo.create_model("mlp", hidden_sizes=(4,)), tx)
    checkpoints = Checkpoints(tmp_path, META, monitor="validation_loss")
    with pytest.raises(DivergedError, match="the loss is nan at step 52;"):
        fit(task, digits, batch_size=32, steps=100, evaluate_every=20, plan=one_device, checkpoints=checkpoints)
    checkpoints.close()
    assert steps(tmp_path) == [20, 40]
    _, variables = zoo.load_model(tmp_path)
    chex.assert_tree_all_finite(variables)


def test_training_that_has_ended_is_not_continued(tmp_path):
    digits = data.load("digits", flat=True, validation=0.1)
    task = classification(zoo.create_model("mlp", hidden_sizes=(4,)), optax.sgd(0.1))
    results = []
    for _ in range(2):
        checkpoints = Checkpoints(tmp_path, META, monitor="validation_loss")
        results.append(fit(task, digits, batch_size=32, steps=20, plan=one_device, checkpoints=checkpoints))
        checkpoints.close()
    assert results[0].history == results[1].history
    assert_equal(results[0].state, results[1].state)
