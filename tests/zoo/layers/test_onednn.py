"""Where oneDNN is called, and that it does not harm the process."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from zoo.layers import convolution, lowering, onednn

SWEEP = """
import random
import jax, jax.numpy as jnp
from zoo.layers import cpu_convolution, onednn, product
product._SMALL = 1
from zoo.layers.cpu_convolution import Geometry

random.seed(0)

def pair(low, high):
    return random.randint(low, high), random.randint(low, high)

def case():
    channels, batch = random.choice([1, 3, 8, 17]), random.choice([1, 2])
    groups, inputs = random.choice([(channels, 1), (channels, 1), (1, channels), (2, channels)])
    outputs = groups * random.choice([1, 1, 2, 5])
    at = Geometry(pair(5, 20), pair(1, 7), pair(1, 3), (pair(0, 6), pair(0, 6)), pair(1, 3), groups)
    if random.random() < 0.2:
        at = Geometry(at.size, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), groups)
    return batch, at, groups * inputs, outputs

cases = [c for c in (case() for _ in range(25)) if 0 not in c[1].out()]

def convolutions(dtype):
    total = 0.0
    for batch, at, inputs, outputs in cases:
        x = jnp.ones((batch, *at.size, inputs), dtype)
        kernel = jnp.ones((*at.window, inputs // at.groups, outputs), dtype)
        g = jnp.ones((batch, *at.out(), outputs), dtype)
        total += cpu_convolution.output(x, kernel, at)[0].sum()
        total += cpu_convolution.image_gradient(g, kernel, at).sum()
        total += cpu_convolution.kernel_gradient(x, g, at).sum()
    return total

def products(dtype):
    total = 0.0
    for _ in range(30):
        batch, m, k, n = pair(1, 3) * random.choice([0, 0, 1]), *pair(1, 200), random.randint(1, 200)
        turned = random.random() < 0.5, random.random() < 0.5
        a = jnp.ones((*batch, *((k, m) if turned[0] else (m, k))), dtype)
        b = jnp.ones((*batch, *((n, k) if turned[1] else (k, n))), dtype)
        total += product.matmul(a, b, transpose_a=turned[0], transpose_b=turned[1]).sum()
    return total

devices = jax.device_count()
for dtype in filter(onednn.takes, (jnp.float32, jnp.bfloat16)):
    for sweep in (convolutions, products):
        if devices == 1:
            program = jax.jit(lambda: sweep(dtype))
        else:
            program = lambda: jax.pmap(lambda _: sweep(dtype))(jnp.zeros(devices))
        for _ in range(2):
            print("total", program())
"""


def sweep(**environment):
    """What ran, as oneDNN tells it: the implementations of convolutions and of products."""
    environment = {**os.environ, "ONEDNN_VERBOSE": "1", "XLA_FLAGS": "", **environment}
    done = subprocess.run([sys.executable, "-c", SWEEP], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "nan" not in done.stdout
    return [set(re.findall(rf",exec,cpu,{kind},([^,]+),", done.stdout)) for kind in ("convolution", "matmul")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "instructions", ["ALL", *(pytest.param(fewer, marks=pytest.mark.exhaustive) for fewer in ("AVX2", "AVX"))]
)
def test_it_uses_kernels_made_for_the_cpu(instructions):
    """Its other ways corrupt the heap: a process that ran some crashed, or hung, at any time afterwards."""
    convolutions, products = sweep(ONEDNN_MAX_CPU_ISA=instructions)
    there = onednn.takes(jnp.float32) and instructions != "AVX"
    assert (bool(convolutions), bool(products)) == (there, there)
    assert not {name for name in convolutions if "gemm" in name or "ref" in name}, convolutions
    assert not {name for name in products if "ref" in name}, products


@pytest.mark.exhaustive
def test_the_heap_stays_whole_on_eight_devices():
    sweep(
        XLA_FLAGS="--xla_force_host_platform_device_count=8",
        GLIBC_TUNABLES="glibc.malloc.check=3",
        LD_PRELOAD="libc_malloc_debug.so.0",  # what the tunable asks for
        MALLOC_PERTURB_="165",
    )


@pytest.mark.parametrize("cpuinfo", ["flags : fpu sse4_2 avx avx512f", None])
def test_it_is_not_called_where_the_cpu_has_no_avx2_or_does_not_say(cpuinfo, monkeypatch):
    def read_text(path):
        if cpuinfo is None:
            raise PermissionError(path)
        return cpuinfo

    monkeypatch.setattr(onednn.Path, "read_text", read_text)
    monkeypatch.setattr(onednn.metadata, "version", lambda name: "0.10.2")
    assert not onednn._is_there.__wrapped__()


@pytest.mark.parametrize(("tiles", "devices", "there"), [(True, 1, True), (True, 8, False), (False, 1, False)])
def test_it_convolves_in_bfloat16_where_the_cpu_has_amx_and_the_process_one_device(tiles, devices, there, monkeypatch):
    monkeypatch.setattr(onednn, "takes", lambda dtype: dtype != jnp.float16)
    monkeypatch.setattr(onednn, "_has_tiles", lambda: tiles)
    monkeypatch.setattr(jax, "local_device_count", lambda backend: devices)
    assert [onednn.convolves(dtype) for dtype in (jnp.float32, jnp.bfloat16, jnp.float16)] == [True, there, False]


def test_it_is_called_where_it_is_unless_told_not_to(monkeypatch):
    x, kernel = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 4))
    known = platform.system() == "Linux" and platform.machine() == "x86_64"
    assert onednn.takes(jnp.float32) == known, "try the custom calls of this jaxlib, and say so in onednn.py"

    def lowered():
        return jax.jit(lambda x, kernel: convolution.conv(x, kernel)).lower(x, kernel).as_text()

    assert ("__onednn$convolution" in lowered()) == known
    monkeypatch.setattr(lowering, "ENABLED", False)
    assert "onednn" not in lowered()
