"""Two processes, joined by `jax.distributed`, end with the parameters of one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import chex
import pytest

import zoo

pytestmark = pytest.mark.slow

SETTINGS = [
    "epochs=2",
    "checkpoint_every=1",
    "optimizer=sgd",
    "learning_rate=0.05",
    "batch_size=64",
]


def start(recipe, folder, settings, process=None, count=1, devices=1, port=0):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "train", "train", recipe, *SETTINGS, *settings, "--run", str(folder)]
    if process is not None:
        command.append("--distributed")
        environment |= {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(process),
        }
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*processes):
    try:
        for process in processes:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
    finally:
        for process in processes:  # those that wait for one that failed
            process.kill()
            process.communicate()


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


# mlp: one resident scan; cnn: batch norm over both processes, dropout off so that the masks need not agree.
@pytest.mark.parametrize(
    ("recipe", "plan", "settings"),
    [
        ("mlp_digits", "jit", []),
        ("mlp_digits", "fsdp", ["model_options.dropout_rate=0"]),
        (
            "lenet5_digits",
            "pmap",
            ["model=cnn", "model_options.features=[4, 8]", "model_options.dropout_rate=0"],
        ),
    ],
)
def test_two_processes_agree_with_one(tmp_path, recipe, plan, settings):
    settings = [*settings, f"plan={plan}"]
    port = free_port()
    finish(*(start(recipe, tmp_path / "two", settings, process, 2, port=port) for process in (0, 1)))
    finish(start(recipe, tmp_path / "one", settings, devices=2))
    _, two = zoo.load_model(tmp_path / "two")
    _, one = zoo.load_model(tmp_path / "one")
    chex.assert_trees_all_close(two, one, rtol=1e-4, atol=1e-6)
    files = {path.name for path in (tmp_path / "two").iterdir()}
    assert files >= {"recipe.json", "history.csv", "curves.png", "report.json", "confusion_matrix.png", "checkpoints"}


def test_a_run_of_two_processes_continues_with_one(tmp_path):
    port = free_port()
    finish(*(start("mlp_digits", tmp_path / "run", [], process, 2, port=port) for process in (0, 1)))
    steps = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
    newest = tmp_path / "run" / "checkpoints" / str(steps[-1])
    before = zoo.load_model(newest)[1]
    newest.rename(tmp_path / "aside")
    finish(start("mlp_digits", tmp_path / "run", ["--resume"]))
    chex.assert_trees_all_close(zoo.load_model(newest)[1], before, rtol=1e-4, atol=1e-6)
