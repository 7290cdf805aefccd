"""Joining other processes: what the environment must say, and what is said while nobody comes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.loop.test_distributed import free_port
from train.launch import Membership, join_processes, membership

NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def environment(*values):
    return {name: value for name, value in zip(NAMES, values, strict=True) if value}


def test_what_the_environment_says():
    assert membership({}) is None
    assert membership(environment("10.0.0.1:1234", "", "")) is None, "the cluster tells the rest"
    assert membership(environment("10.0.0.1:1234", "4", "3")) == Membership("10.0.0.1:1234", 4, 3)
    assert membership(environment("[::1]:80", "1", "0")) == Membership("[::1]:80", 1, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("", "2", ""), "JAX_NUM_PROCESSES without JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID: set all three"),
        (("a:1", "2", ""), "without JAX_PROCESS_ID"),
        (("localhost", "2", "0"), "host:port, such as 10.0.0.1:1234; not 'localhost'"),
        ((":12", "2", "0"), "not ':12'"),
        (("a:99999", "2", "0"), "not 'a:99999'"),
        (("a:1", "two", "0"), "JAX_NUM_PROCESSES is a whole number from 0, not 'two'"),
        (("a:1", "2", "-1"), "JAX_PROCESS_ID is a whole number from 0, not '-1'"),
        (("a:1", "2", "2"), "JAX_PROCESS_ID is from 0 to 1 for JAX_NUM_PROCESSES=2, not 2"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        membership(environment(*values))


@pytest.mark.parametrize("timeout", [0, float("nan"), float("inf")])
def test_times_to_wait(timeout):
    with pytest.raises(ValueError, match="from 1 to 86400 seconds"):
        join_processes(timeout)


@pytest.mark.parametrize("process", [0, 1])
def test_who_is_waited_for_is_said_and_the_time_out_too(process):
    port = free_port()
    command = [sys.executable, "-m", "zoo", "train", "mlp_digits", "--distributed", "--join-timeout", "5"]
    told = environment(f"localhost:{port}", "3", str(process))
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        env={**os.environ, **told, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    whom = (
        f"process 1 to 2 to come to localhost:{port}",
        f"the coordinator at localhost:{port} (this is process 1 of 3)",
    )
    assert done.returncode == 1
    assert f"zoo: waiting for {whom[process]}" in done.stderr
    assert f"zoo: error: waited 5 seconds for {whom[process]}" in done.stderr
