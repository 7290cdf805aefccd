"""What `bench` reports is consistent with itself and with what is known of the models."""

import pytest

from train.bench import bench


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
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bench(**arguments)
