"""The notebooks: each runs from start to end as it stands, and is stored without what a run leaves behind."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]

every_notebook = pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)


@every_notebook
def test_runs_from_start_to_end(path, tmp_path):
    # As for a reader with one device and inline pictures, not as under this suite's own settings.
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "MPLBACKEND")}
    environment["JAX_PLATFORMS"] = "cpu"
    environment["PIP_NO_INDEX"] = "1"  # the packages of this repository, or none
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    assert list(tmp_path.iterdir()) == []


@every_notebook
def test_is_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs, cell.id
            assert cell.execution_count is None, cell.id
            assert "execution" not in cell.metadata, cell.id
