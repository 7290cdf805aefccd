"""What every test runs under: eight CPU devices, no implicit rank promotion."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = os.environ.get("ZOO_TEST_PLATFORMS", "cpu")  # .ci/accelerator says "cuda,cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["XDG_CACHE_HOME"] = os.path.join(tempfile.gettempdir(), f"flaxzoo-tests-{os.getuid()}")  # not the user's own

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Hundreds of compiled programs would fill gigabytes by the end."""
    yield
    jax.clear_caches()
