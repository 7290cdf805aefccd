"""Exact resumption: a run that was killed ends with the bits of one that was not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.compiling import FLAGS, UNOPTIMISED


def interrupted(folder, kill_step, *cases):
    """A process that trains these cases one after the other, each in a folder of its own.

    What one process compiles, the next reads: over two devices nothing calls oneDNN, whose programs cannot be written.
    """
    script = Path(__file__).with_name("interrupted.py")
    environment = {
        **os.environ,
        **UNOPTIMISED,
        "ZOO_CPU_LOWERING": "plain",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]),
        "XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count=2",
    }
    command = [sys.executable, str(script), str(folder), str(kill_step), *cases]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


# cnn: batch norm, dropout, convolutions, one step a dispatch or several; mlp: resident and scanned; gan: two players;
# ffjord: random directions and a solver; latent_ode: a recurrent encoder, which draws, and a solver.
KILLED = {
    "mlp jit": 26,
    "cnn fsdp": 31,
    "mlp pmap": 40,
    "gan jit": 26,
    "ffjord jit": 26,
    "latent_ode jit": 26,
}
"""The step at which each is killed."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",
    [
        ("mlp jit", "cnn fsdp", "mlp pmap"),
        pytest.param(("gan jit", "ffjord jit", "latent_ode jit"), marks=pytest.mark.exhaustive),
    ],
)
def test_runs_that_were_killed_end_with_the_bits_of_those_that_were_not(cases, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for case in cases:
        process = interrupted(killed, KILLED[case], case)
        assert process.returncode == -signal.SIGKILL, process.stderr
        assert not (killed / case / "result.npz").exists()
    for folder in (whole, killed):
        process = interrupted(folder, 0, *cases)
        assert process.returncode == 0, process.stderr
    for case in cases:
        expected, result = (np.load(folder / case / "result.npz") for folder in (whole, killed))
        assert len(expected.files) > 10
        for array in expected.files:
            np.testing.assert_array_equal(result[array], expected[array], err_msg=f"{case}: {array}")
