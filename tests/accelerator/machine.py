"""What machine this is."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "torch", "triton", "timm", "transformers")


def gpu() -> tuple[str, str, str] | None:
    """Name, driver and memory of the first GPU."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        line = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None
    name, driver, memory = (part.strip() for part in line.split(","))
    return name, driver, memory


def describe() -> dict[str, str]:
    found = gpu()
    facts = {"GPU": "none" if found is None else f"{found[0]}, {found[2]}, driver {found[1]}"}
    facts["CPUs"] = str(os.cpu_count())
    facts["Python"] = platform.python_version()
    for package in _PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    facts["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") or "none"
    return facts
