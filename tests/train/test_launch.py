"""Joining other processes: what the environment must say, and what is said while nobody comes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.train.loop.test_distributed import free_port
from train.launch import Membership, join_processes, keep_programs, membership, require_known_xla_flags, roll_call

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


def called(port, processes, process, timeout):
    """What one process gets to know, in a thread: None, or its error."""
    try:
        roll_call(Membership(f"localhost:{port}", processes, process), timeout)
    except (TimeoutError, ValueError) as error:
        return error


def all_called(members, timeout=20.0):
    port = free_port()
    with ThreadPoolExecutor(len(members)) as pool:
        calls = [pool.submit(called, port, processes, process, timeout) for processes, process in members]
        return port, [call.result() for call in calls]


def test_all_are_there():
    assert all_called([(4, 2), (4, 0), (4, 1), (4, 3)])[1] == [None] * 4


@pytest.mark.slow  # it waits
def test_who_is_missing(capsys):
    port, (first, second) = all_called([(5, 0), (5, 2)], timeout=4)
    assert str(first) == (
        f"waited 4 seconds for processes 1, 3, 4 of 5 to come to localhost:{port} (this is process 0, the coordinator)"
        ", in vain"
    )
    assert str(second) == f"process 0 {first}"
    said = capsys.readouterr().err
    assert "zoo: waiting for processes 1, 3, 4 of 5 to come" in said
    assert f"zoo: waiting for the processes that are missing at localhost:{port}; process 0 says which" in said


def test_numbers_that_collide_and_counts_that_differ():
    _, (first, *others) = all_called([(3, 0), (3, 1), (3, 1)], timeout=5)
    assert str(first) == "two processes have JAX_PROCESS_ID=1"
    assert [str(first)] * 2 == [str(other) for other in others]
    _, (first, second) = all_called([(3, 0), (2, 1)], timeout=5)
    assert str(first) == str(second) == "JAX_NUM_PROCESSES is 3 in process 0 and 2 in process 1"


@pytest.mark.slow  # it waits
def test_who_leaves_is_missing_again():
    port = free_port()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(called, port, 3, 0, 4)
        for words in (b"zoo 1 3\n", b"GET / HTTP/1.1\n", b"zoo x y\n"):
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("localhost", port)) as caller:
                    caller.sendall(words)
                    assert caller.recv(9) == b"heard\n"
                    break
        assert "for processes 1, 2 of 3" in str(first.result())


def test_a_port_that_is_taken():
    with socket.create_server(("", free_port())) as taken:
        port = taken.getsockname()[1]
        assert f"process 0 cannot listen on localhost:{port}" in str(called(port, 2, 0, 5))


def test_flags_that_xla_does_not_know():
    require_known_xla_flags({})
    require_known_xla_flags({"XLA_FLAGS": "--xla_force_host_platform_device_count=3 --xla_dump_to=folder"})
    with pytest.raises(ValueError, match=r"XLA_FLAGS: unknown flag: 'xla_dmp_to'; nearest: .*xla_dump_to"):
        require_known_xla_flags({"XLA_FLAGS": "--xla_dump_hlo_as_text --xla_dmp_to=folder"})


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
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
        f"processes 1, 2 of 3 to come to localhost:{port} (this is process 0, the coordinator)",
        f"the coordinator at localhost:{port} (this is process 1 of 3)",
    )
    assert done.returncode == 1
    assert f"zoo: waiting for {whom[process]}" in done.stderr
    assert f"zoo: error: waited 5 seconds for {whom[process]}" in done.stderr


def test_compiled_programs_are_kept_in_the_cache_of_the_user(tmp_path):
    told = {"XDG_CACHE_HOME": str(tmp_path)}
    keep_programs(told)
    assert told["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "flaxzoo" / "programs")
    assert (tmp_path / "flaxzoo" / "programs").is_dir()

    chosen = {"XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": "elsewhere"}
    keep_programs(chosen)
    assert chosen["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"
    assert "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in chosen

    (tmp_path / "file").touch()
    none = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    keep_programs(none)
    assert "JAX_COMPILATION_CACHE_DIR" not in none, "where nothing can be written, nothing is kept"


_KEPT = """
import jax, jax.numpy as jnp
from zoo.layers import product

@jax.jit
def before(x):
    return jnp.sin(x)

@jax.jit
def with_onednn(x):
    return product.matmul(x, x)

@jax.jit
def after(x):
    return jnp.cos(x)

x = jnp.ones((256, 256))
before(x), with_onednn(x), after(x)
assert "onednn" in with_onednn.lower(x).as_text()
"""


@pytest.mark.slow
def test_a_program_that_calls_onednn_is_not_written_down(tmp_path):
    """XLA would read memory that is not its own: it said `std::bad_alloc` where it did not crash."""
    told = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    told |= {"XLA_FLAGS": "", "PYTHONPATH": path}
    command = [sys.executable, "-W", "error", "-c", _KEPT]
    subprocess.run(command, env={**os.environ, **told}, check=True, timeout=120)
    written = {file.name.partition("-")[0] for file in tmp_path.glob("*-cache")}
    assert "jit_before" in written
    assert not written & {"jit_with_onednn", "jit_after"}
