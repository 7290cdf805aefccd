"""Training: tasks, optimizers, the loop, plans for devices, runs and the command line."""

from __future__ import annotations

import importlib
import runpy
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

runpy.run_path(str(Path(__file__).parents[1] / "train" / "entry.py"))["require_ours"](Path(__file__).parents[1])

if TYPE_CHECKING:
    from train.loop import callbacks as callbacks
    from train.loop import parallel as parallel
    from train.optim import freezing as freezing
    from train.optim import optimizers as optimizers
    from train.optim import plateau as plateau
    from train.optim import schedules as schedules
    from train.runs import transfer as transfer

SHORT = {
    "build": "runs.build",
    "callbacks": "loop.callbacks",
    "checkpoint": "loop.checkpoints",
    "comparison": "runs.comparison",
    "decode": "inference.beam_search",
    "export": "inference.export",
    "feed": "loop.feed",
    "fidelity": "inference.fidelity",
    "freezing": "optim.freezing",
    "generate": "inference.text_generation",
    "gradient_check": "measure.gradient_check",
    "optimizers": "optim.optimizers",
    "parallel": "loop.parallel",
    "pictures": "measure.pictures",
    "plateau": "optim.plateau",
    "run": "runs.run",
    "sample": "inference.image_sampling",
    "schedules": "optim.schedules",
    "step": "tasks.step",
    "transfer": "runs.transfer",
    "translate": "inference.translation",
}
"""Modules that are imported without their wing too: `from train import parallel`, `from train.freezing import freeze`.

Here, and not as imports: the command line imports only what its command needs.
"""


class _Short(MetaPathFinder, Loader):
    """Finds a module under its short name."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == __name__ and name in SHORT else None

    def exec_module(self, module: Any) -> None:
        sys.modules[module.__name__] = _long(module.__name__.rpartition(".")[2])


def _long(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{SHORT[name]}")


def __getattr__(name: str) -> Any:
    if name in SHORT:
        return _long(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.meta_path.append(_Short())
