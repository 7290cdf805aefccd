"""MAML's meta-gradients against PyTorch's own, taken through its inner steps by torch.func."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import zoo
from train.tasks import maml

torch = pytest.importorskip("torch")
F = torch.nn.functional

TASKS, WAYS, RATE = 2, 3, 0.4


def drawings() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    batch = {}
    for part, each in (("support", 1), ("query", 2)):
        batch[f"{part}_image"] = rng.random((TASKS, WAYS * each, 8, 8, 1), dtype=np.float32)
        batch[f"{part}_label"] = np.tile(np.arange(WAYS, dtype=np.int32), (TASKS, each))
    return batch


def network(params, x):
    """[conv, stride 2, batch norm of the batch, ReLU] × 2, the mean, a dense layer; padding as SAME at even sizes."""
    for index in range(2):
        conv, norm = params[f"Conv_{index}"], params[f"BatchNorm_{index}"]
        x = F.conv2d(F.pad(x, (0, 1, 0, 1)), conv["kernel"], conv["bias"], stride=2)
        x = F.relu(F.batch_norm(x, None, None, norm["scale"], norm["bias"], training=True, eps=1e-5))
    return x.mean((2, 3)) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]


@pytest.mark.parametrize("first_order", [False, True])
def test_meta_gradients_are_those_of_torch(first_order):
    batch = drawings()
    model = zoo.create_model("conv4", features=4, num_layers=2, num_classes=WAYS)
    task = maml(model, optax.sgd(1.0), inner_rate=RATE, inner_steps=2, first_order=first_order)
    state = task.init(jax.random.key(0), batch)
    new, _ = jax.jit(task.train_step)(state, batch)

    def torch_tree(tree):
        return {
            layer: {
                name: torch.tensor(np.array(a.transpose(3, 2, 0, 1) if a.ndim == 4 else a), dtype=torch.float64)
                for name, a in arrays.items()
            }
            for layer, arrays in jax.device_get(tree).items()
        }

    def images(part, task):
        return torch.tensor(batch[f"{part}_image"][task].transpose(0, 3, 1, 2), dtype=torch.float64)

    def labels(part, task):
        return torch.tensor(batch[f"{part}_label"][task].astype(np.int64))

    def meta_loss(params):
        total = 0
        for index in range(TASKS):
            moved = params
            for _ in range(2):
                slopes = torch.func.grad(
                    lambda p, i=index: F.cross_entropy(network(p, images("support", i)), labels("support", i))
                )(moved)
                moved = {
                    layer: {
                        name: moved[layer][name] - RATE * (s.detach() if first_order else s)
                        for name, s in arrays.items()
                    }
                    for layer, arrays in slopes.items()
                }
            total = total + F.cross_entropy(network(moved, images("query", index)), labels("query", index))
        return total / TASKS

    wanted = torch.func.grad(meta_loss)(torch_tree(state.params))
    found = torch_tree(jax.tree.map(lambda a, b: a - b, state.params, new.params))
    for layer, arrays in wanted.items():
        for name, value in arrays.items():
            np.testing.assert_allclose(
                found[layer][name].numpy(), value.detach().numpy(), rtol=2e-3, atol=2e-5, err_msg=f"{layer}/{name}"
            )
