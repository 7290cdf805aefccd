"""What `bench` reports is consistent with itself and with what is known of the models."""

import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

import zoo
from train.measure import bench as measure
from train.measure import turns
from train.measure.bench import bench
from train.measure.parts import Own, epoch
from train.measure.turns import Measured


@pytest.fixture(scope="module")
def results():
    return bench("mlp", batch_size=128, seconds=0.05)


@pytest.mark.slow
def test_train_and_inference_are_measured(results):
    for part in ("train", "inference"):
        measured = results[part]
        assert measured["step_ms_10"] <= measured["step_ms"] <= measured["step_ms_90"]
        assert measured["examples_per_second"] == pytest.approx(128 / measured["step_ms"] * 1e3)
        assert measured["gflops_per_second"] == pytest.approx(
            measured["gflops_per_step"] / measured["step_ms"] * 1e3, rel=1e-6
        )
        assert measured["utilisation"] == pytest.approx(
            measured["gflops_per_second"] / results["matmul_gflops_per_second"]
        )
        assert measured["compile_seconds"] > 0
        assert measured["peak_memory_mb"] > 10


@pytest.mark.slow
def test_operations_are_those_of_the_matrix_products(results):
    # 64-128-64-10, a multiply and an add for each weight and example; training adds two products of the same size.
    products = 2 * 128 * (64 * 128 + 128 * 64 + 64 * 10) / 1e9
    assert results["inference"]["gflops_per_step"] == pytest.approx(products, rel=0.1)
    assert 2 * products < results["train"]["gflops_per_step"] < 4 * products


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["pmap", "fsdp"])
def test_options_reach_the_measurement(plan):
    results = bench("lenet5", batch_size=8, dtype="bfloat16", plan=plan, seconds=0.01)
    assert (results["plan"], results["dtype"], results["devices"]) == (plan, "bfloat16", "8 × cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet81"}, "unknown model: 'resnet81'; nearest: resnet18"),
        ({"name": "mlp", "batch_size": 12}, "cannot be split evenly over 8 devices"),
        ({"name": "mlp", "plan": "jitt"}, "unknown plan"),
        ({"name": "mlp", "seconds": 0}, "seconds must be positive"),
        ({"name": "mlp", "dtype": "float31"}, "dtype"),
        ({"name": "mlp", "compare": ["jax"]}, "no 'jax' to compare with; there are torch, torch-compile, keras, tens"),
        ({"name": "mlp", "compare": ["torch"], "dtype": "bfloat16"}, "float32 on a CPU"),
        ({"name": "mlp", "parts": ["trian"]}, "parts are inference, generate, epoch, train, not trian"),
        ({"name": "mlp", "parts": []}, "parts are inference, generate, epoch, train, not none"),
        ({"name": "mlp", "parts": ["generate"]}, "'mlp' is no language model, and generates no text"),
        ({"name": "cnn", "parts": ["epoch"]}, "digits of 64 features, and 'cnn' takes other inputs"),
        ({"name": "cnn", "length": 8}, "'cnn' takes no sequences, and so no length"),
        ({"name": "char_lstm", "length": 0}, "length must be at least 1, not 0"),
        ({"name": "resnet18", "stem": "cifar", "depth": 3}, "unknown option of model 'resnet18': 'depth'"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bench(**arguments)


@pytest.mark.slow
def test_the_task_is_that_of_the_model():
    results = bench("gan", batch_size=8, seconds=0.01, image_shape=(8, 8, 1), generator_features=(4, 4))
    assert results["train"]["step_ms"] > results["inference"]["step_ms"] > 0


@pytest.mark.slow
def test_a_language_model_is_measured_on_tokens():
    results = bench("char_lstm", batch_size=8, seconds=0.01, hidden_size=4, vocab_size=5)
    # What is inside the scan is counted once, and not for each of 100 steps.
    assert results["inference"]["gflops_per_step"] > 2 * 8 * 100 * (5 * 16 + 4 * 16 + 4 * 5) / 1e9
    with pytest.raises(ValueError, match="'char_lstm' takes no images, and so no image_size"):
        bench("char_lstm", batch_size=8, image_size=32)


@pytest.mark.slow
def test_the_comparison_reports_both_and_their_ratio():
    pytest.importorskip("torch")
    results = bench("mlp", batch_size=8, seconds=0.01, compare=["torch"])
    for part in ("train", "inference"):
        measured = results[part]["compare"]["torch"]
        assert measured["ratio_10"] <= measured["ratio"] <= measured["ratio_90"]
        assert measured["step_ms"] > 0


@pytest.mark.slow
def test_the_ratio_is_our_time_over_theirs(monkeypatch):
    monkeypatch.setattr(measure.peers, "beside", lambda name, work: nullcontext(lambda part, count: 0.0))
    seconds = np.array([[0.2, 0.4, 0.3], [0.1, 0.1, 0.1], [0.2, 0.4, 0.6]])
    monkeypatch.setattr(measure, "alternate", lambda turns, limit: Measured(seconds, [2, 1, 1]))
    results = bench("perceptron", batch_size=8, compare=["torch", "keras"])
    for part in ("train", "inference"):
        assert results[part]["step_ms"] == pytest.approx(300)
        assert results[part]["steps_measured"] == 6
        others = results[part]["compare"]
        assert [others[name]["step_ms"] for name in others] == pytest.approx([100, 400])
        assert [others[name]["ratio"] for name in others] == pytest.approx([3, 1])


def test_turns_alternate_and_short_steps_are_many_in_a_turn(monkeypatch):
    """By a clock that only the steps move."""
    now, order = [0.0], []

    def step(name, seconds):
        def take():
            order.append(name)
            now[0] += seconds

        return take

    monkeypatch.setattr(turns, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    fast, slow = turns.timed(step("a", 0.03)), turns.timed(step("b", 0.5))
    measured = turns.alternate([lambda count: fast(count)[0], lambda count: slow(count)[0]], 1.0)
    assert measured.counts == [4, 1]
    assert measured.seconds.shape == (2, 7), "a turn of the first takes 0.15 s with the step that does not count"
    assert measured.seconds == pytest.approx(np.array([[0.03] * 7, [0.5] * 7]))
    assert "".join(order) == "a" * 6 + "b" * 6 + "aaaaab" * 7


@pytest.mark.slow
def test_a_peer_that_fails_is_an_error_or_left_out(monkeypatch):
    def beside(name, work):
        raise ValueError("not installed")

    monkeypatch.setattr(measure.peers, "beside", beside)
    with pytest.raises(ValueError, match="not installed"):
        bench("perceptron", batch_size=8, seconds=0.01, compare=["torch"])
    results = bench("perceptron", batch_size=8, seconds=0.01, compare=["torch"], leave_out=True)
    assert results["left_out"] == {"torch": "not installed"}
    assert "compare" not in results["train"]


@pytest.mark.slow
def test_an_epoch_of_fit_is_a_step():
    model, batch = zoo.create_model("mlp"), {"image": np.zeros((32, 64), np.float32)}
    own = Own(model, None, None, None, batch, batch["image"])
    turn, _ = epoch(own)
    seconds, loss = turn(2)
    assert seconds > 0
    assert 0 < loss < 2.3, "it has learnt for seven epochs"


@pytest.mark.slow
def test_a_text_is_generated():
    results = bench("char_lstm", batch_size=8, seconds=0.01, parts=["generate"], hidden_size=4, vocab_size=5)
    assert results["generate"]["step_ms"] > 0
    assert not {"train", "inference"} & set(results)


def test_a_matrix_product_has_a_multiply_and_an_add_for_each_number(monkeypatch):
    """By a clock that goes on by a second whenever it is read."""
    clock = itertools.count()
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr(measure, "_PEAK_MATMUL", 8)
    assert measure._matmul_rate("float32") == 2 * 8**3
