"""What `bench` reports is consistent with itself and with what is known of the models."""

import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

import zoo
from train.measure import bench as measure
from train.measure.bench import bench
from train.measure.peers import torch_peer
from zoo.summary import abstract_variables, count_parameters


@pytest.fixture(scope="module")
def results():
    return bench("mlp", batch_size=128, seconds=0.05)


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


def test_operations_are_those_of_the_matrix_products(results):
    # 64-128-64-10, a multiply and an add for each weight and example; training adds two products of the same size.
    products = 2 * 128 * (64 * 128 + 128 * 64 + 64 * 10) / 1e9
    assert results["inference"]["gflops_per_step"] == pytest.approx(products, rel=0.1)
    assert 2 * products < results["train"]["gflops_per_step"] < 4 * products


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
        ({"name": "mlp", "compare": "tensorflow"}, 'compare must be "torch"'),
        ({"name": "mlp", "compare": "torch", "dtype": "bfloat16"}, "float32 on a CPU"),
        ({"name": "resnet18", "stem": "cifar", "depth": 3}, "unknown option of model 'resnet18': 'depth'"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bench(**arguments)


def test_the_task_is_that_of_the_model():
    results = bench("gan", batch_size=8, seconds=0.01, image_shape=(8, 8, 1), generator_features=(4, 4))
    assert results["train"]["step_ms"] > results["inference"]["step_ms"] > 0


def test_a_language_model_is_measured_on_tokens():
    results = bench("char_lstm", batch_size=8, seconds=0.01, hidden_size=4, vocab_size=5)
    # What is inside the scan is counted once, and not for each of 100 steps.
    assert results["inference"]["gflops_per_step"] > 2 * 8 * 100 * (5 * 16 + 4 * 16 + 4 * 5) / 1e9
    with pytest.raises(ValueError, match="'char_lstm' takes no images, and so no image_size"):
        bench("char_lstm", batch_size=8, image_size=32)


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("mlp", {}, 17_226),
        ("cnn", {}, 241_994),
        ("vae", {}, 229_265),
        ("gan", {}, 1_102_402),
        ("resnet18", {"stem": "cifar", "num_classes": 10}, 11_173_962),
    ],
)
def test_the_peer_has_as_many_parameters_and_learns(name, options, parameters):
    shape = {"mlp": (64,), "resnet18": (32, 32, 3)}.get(name, (28, 28, 1))
    rng = np.random.default_rng(0)
    batch = {"image": rng.uniform(size=(4, *shape)).astype(np.float32), "label": np.arange(4)}
    made = parameters_that_learn(name, batch, options)
    assert sum(p.numel() for p in made) == parameters == zoo_parameters(name, **options)


@pytest.mark.parametrize(
    ("name", "second_biases"),
    [("char_lstm", 1024), ("lstm_regressor", 384), ("gru_regressor", 192), ("bilstm_regressor", 768)],
)
def test_a_recurrent_peer_has_second_biases_besides_and_learns(name, second_biases):
    rng = np.random.default_rng(0)
    batch = {"inputs": rng.normal(size=(4, 6, 1)).astype(np.float32), "target": np.ones((4, 1), np.float32)}
    if name == "char_lstm":
        batch = {"tokens": rng.integers(0, 65, (4, 7), np.int32)}
    made = parameters_that_learn(name, batch, {})
    assert sum(p.numel() for p in made) == zoo_parameters(name) + second_biases


def parameters_that_learn(name, batch, options):
    """The parameters of a peer: inference leaves them alone, and a train step moves them."""
    torch = pytest.importorskip("torch")
    made = []
    with pytest.MonkeyPatch.context() as patch:
        adamw = torch.optim.AdamW

        def watched(params, **settings):
            made.extend(params := list(params))
            return adamw(params, **settings)

        patch.setattr(torch.optim, "AdamW", watched)
        peer = torch_peer(name, batch, 10, options)
    before = [p.detach().clone() for p in made]
    peer.infer()
    assert all(torch.equal(p, old) for p, old in zip(made, before, strict=True))
    peer.train()
    moved = sum(not torch.equal(p, old) for p, old in zip(made, before, strict=True))
    assert moved > len(made) / 2, "all move but what stands before a scale that starts at zero"
    return made


def zoo_parameters(name, **options):
    card = zoo.model_card(name)
    params = abstract_variables(zoo.create_model(name, **options), card.example())["params"]
    return count_parameters(params)


def test_the_comparison_reports_both_and_their_ratio():
    pytest.importorskip("torch")
    results = bench("mlp", batch_size=8, seconds=0.01, compare="torch")
    for part in ("train", "inference"):
        measured = results[part]
        assert measured["ratio_10"] <= measured["ratio"] <= measured["ratio_90"]
        assert measured["torch_step_ms"] > 0


def test_the_ratio_is_our_time_over_theirs(monkeypatch):
    peer = SimpleNamespace(infer=lambda: 0.0, train=lambda: 0.0)
    monkeypatch.setattr(measure.peers, "beside", lambda *args: nullcontext(peer))
    monkeypatch.setattr(measure, "_alternate", lambda steps, seconds: np.array([[0.2, 0.4, 0.3], [0.1, 0.1, 0.1]]))
    results = bench("perceptron", batch_size=8, compare="torch")
    for part in ("train", "inference"):
        assert results[part]["step_ms"] == pytest.approx(300)
        assert results[part]["torch_step_ms"] == pytest.approx(100)
        assert results[part]["ratio"] == pytest.approx(3)


def test_a_matrix_product_has_a_multiply_and_an_add_for_each_number(monkeypatch):
    """By a clock that goes on by a second whenever it is read."""
    clock = itertools.count()
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr(measure, "_PEAK_MATMUL", 8)
    assert measure._matmul_rate("float32") == 2 * 8**3


def test_what_pytorch_has_not_is_said():
    pytest.importorskip("torch")
    for name in ("perceptron", "attention_regressor"):
        with pytest.raises(ValueError, match=f"no '{name}' in PyTorch"):
            bench(name, batch_size=8, compare="torch")
