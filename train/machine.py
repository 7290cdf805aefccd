"""What figures depend on beside the program: the machine, the versions of the libraries, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """What the times depend on: processor, cores, and the versions of the libraries."""
    libraries = {}
    for name in ("jax", "jaxlib", "torch", "keras", "tensorflow", "tensorflow-cpu", "transformers", "timm"):
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": libraries,
    }


def zoo_version() -> str | None:
    """The version of this package; None where it is not installed, but found by PYTHONPATH."""
    try:
        return version("flaxzoo")
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of our code where it is a checkout, with "+" where files have changed since; None elsewhere."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        found = _git(root, "rev-parse", "HEAD")[:12]
        return f"{found}+" if _git(root, "status", "--porcelain", "--", "zoo", "train", "data") else found
    except (OSError, subprocess.SubprocessError):
        return None


def load() -> float | None:
    """How many processes have run or waited, on average over the last minute; None on Windows."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _processor() -> str:
    """As Linux tells it, with its family, since virtual machines often leave the model out of the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name", platform.machine())
    numbers = [
        f"{word} {facts[field]}" for word, field in (("family", "cpu family"), ("model", "model")) if field in facts
    ]
    return f"{name} ({', '.join(numbers)})" if numbers else name
