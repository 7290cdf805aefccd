"""Makes the notebooks: runs their sources, and keeps the cells with what they gave.

    pip install -e ".[test,notebooks]"
    python -m notebooks.build              # all of them
    python -m notebooks.build 02 05_cnns   # those whose names begin so

A source is `NN_name.py` in jupytext's py:percent format. `NN_name.ipynb` is made from it, and is never edited. A source

- installs the package in its first code cell where it is not there: `# %pip install -q --find-links . flaxzoo`, a
  magic, is a comment in the source and a command in the notebook;
- looks as all others do: `plt.style.use("train.measure.pictures")`. C0 is blue, C1 orange, C2 green, C3 purple, C4
  dark, C5 grey, C6 pale;
- is larger by one variable on an accelerator: `LARGE = jax.default_backend() != "cpu"`;
- asserts what its prose claims, and runs from start to end in an empty folder, without a network, in half a minute;
- writes nothing to stderr (no progress bars), and leaves no file behind.

`tests/test_notebooks.py` runs each and compares the outputs with those that are kept: the same cells give text and
pictures, and the text has the same words. Numbers are not compared, for they differ between machines; `assert` holds
those that matter. A cell whose words depend on such numbers, as generated text does, is tagged: `# %% tags=["varies"]`.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent

LIMIT = 300
"""Seconds after which a notebook is ended. It should take 10 to 30 on 2 idle CPU cores, at most 120 on busy ones."""


def sources(beginnings: Sequence[str] = ("",)) -> list[Path]:
    """The sources whose names begin so, in order.

    Raises:
      ValueError: there is none for one of them.
    """
    found: set[Path] = set()
    for beginning in beginnings:
        some = {path for path in FOLDER.glob("[0-9][0-9]_*.py") if path.name.startswith(beginning)}
        if not some:
            raise ValueError(f"no source of a notebook begins with {beginning!r}: notebooks/NN_name.py")
        found |= some
    return sorted(found)


def read(source: Path) -> Any:
    """The notebook of a source, without outputs; the ids of its cells are their numbers."""
    notebook = jupytext.read(source, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": kernel, "language_info": {"name": "python"}, "flaxzoo": made_by()}
    )
    nbformat.validate(notebook)
    return notebook


def made_by() -> dict[str, Any]:
    """What outputs depend on beside the source: the version, and whether the real data sets are there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"version": project["version"], "data": bool(os.environ.get("ZOO_DATA_DIR"))}


def run(notebook: Any, folder: str | Path, environment: Mapping[str, str] | None = None) -> Any:
    """Runs a notebook in a folder as its readers do: one CPU device, a process of its own. Its outputs are filled in.

    Args:
      notebook: of `read`.
      folder: where it runs.
      environment: variables that differ.

    Raises:
      CellExecutionError: a cell raised an error.
      CellTimeoutError: it takes longer than `LIMIT`.
    """
    outside = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "MPLBACKEND")}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {"JAX_PLATFORMS": "cpu", "PIP_NO_INDEX": "1", "PYTHONPATH": path}
    ours["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's, where no widgets of Jupyter are installed
    ours["TF_CPP_MIN_LOG_LEVEL"] = "3"  # on a busy machine XLA tells stderr that compiling took long
    end = time.monotonic() + LIMIT
    client = NotebookClient(
        notebook,
        timeout_func=lambda cell: max(1, int(end - time.monotonic())),
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    language = notebook.metadata.language_info
    client.execute(env={**outside, **ours, **(environment or {})})
    notebook.metadata.language_info = language  # the kernel adds the version of Python
    return notebook


_OF_ONE_MACHINE = re.compile(r"(?<![\w.])/(home|root|tmp|usr|work|mnt|content)\b|\b0x[0-9a-f]{6,}")
"""Absolute paths, and addresses of objects."""


def unclean(notebook: Any) -> list[str]:
    """What outputs hold that nobody wants to read: what went to stderr, and what is of one machine or run."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    named = zip((output.get("name") for output in outputs), texts, strict=True)
    return [text for name, text in named if name == "stderr" or _OF_ONE_MACHINE.search(text)]


def main(beginnings: Sequence[str]) -> None:
    """Makes notebooks anew, and says how long each took and how large it is.

    Raises:
      ValueError: there is no such source; or outputs are unclean, and nothing is written.
    """
    for source in sources(beginnings or ("",)):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            notebook = run(read(source), folder)
        if noise := unclean(notebook):
            raise ValueError(f"{source.name} writes to stderr, or what is of one machine: {noise}")
        out = source.with_suffix(".ipynb")
        nbformat.write(notebook, out)
        print(f"{out.name}: {time.monotonic() - began:.0f} s, {out.stat().st_size / 1000:.0f} KB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
