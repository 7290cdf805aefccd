"""The notebooks: each is what its source makes, and runs from start to end as it stands.

They need what the extra `notebooks` brings (`.ci/run` installs it), and are skipped without.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from train.measure import pictures

build: Any = pytest.importorskip("notebooks.build", reason='notebooks need pip install -e ".[notebooks]"')
pytest.importorskip("ipykernel", reason='notebooks need pip install -e ".[notebooks]"')

LARGEST = 400_000
"""Bytes of a notebook: a clone holds them all."""

EIGHT_DEVICES = ("00_quick_start",)
"""These run on several devices as they stand."""

SOURCES = build.sources()
every_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def kept(source: Path) -> Any:
    return build.nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: Any) -> list[str]:
    """What a cell gave: the name of a stream, or the richest form of an output, in order."""
    forms = ("image/png", "text/html", "text/plain")
    outputs = (o.name if o.output_type == "stream" else next(f for f in forms if f in o.data) for o in cell.outputs)
    return list(outputs)


def words(cell: Any) -> str:
    """The text that a cell gave, with all numbers alike. How wide a column is depends on its numbers."""
    texts = [o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    text = re.sub(r"[-+−]?\d[\d.,_]*(e[-+]?\d+)?|\b(nan|inf)\b", "#", "\n".join(texts))
    return " ".join(text.split())


def test_each_source_has_its_notebook():
    assert [source.stem for source in SOURCES] == sorted(path.stem for path in build.FOLDER.glob("*.ipynb"))


@every_notebook
def test_the_notebook_is_what_the_source_makes(source):
    made, there = build.read(source), kept(source)
    build.nbformat.validate(there)
    again = f"its source changed: python -m notebooks.build {source.stem}"
    for new, old in zip(made.cells, there.cells, strict=True):
        assert (new.cell_type, new.source, new.metadata) == (old.cell_type, old.source, old.metadata), again
        assert new.id == old.id, again
    assert there.metadata.flaxzoo.version == made.metadata.flaxzoo.version, again
    assert "%pip install -q" in code_cells(there)[0].source


@every_notebook
def test_its_outputs_are_those_of_a_clean_run(source):
    notebook, path = kept(source), source.with_suffix(".ipynb")
    assert path.stat().st_size <= LARGEST
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, 1 + len(code_cells(notebook))))
    assert any("image/png" in kinds(cell) for cell in code_cells(notebook))
    for cell in code_cells(notebook):
        assert {output.output_type for output in cell.outputs} <= {"stream", "display_data", "execute_result"}, cell.id
    assert build.unclean(notebook) == []


@every_notebook
def test_its_links_lead_somewhere(source):
    text = "\n".join(cell.source for cell in build.read(source).cells if cell.cell_type == "markdown")
    headings = re.findall(r"^#+ (.*)", (build.ROOT / "README.md").read_text(), re.MULTILINE)
    sections = {heading.lower().replace(" ", "-") for heading in headings}
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert links
    for file, _, section in (link.partition("#") for link in links):
        assert (build.FOLDER / file).is_file(), file
        assert not section or section in sections, section


@pytest.mark.slow
@every_notebook
def test_runs_from_start_to_end(source, tmp_path):
    require_as_kept(source, build.run(build.read(source), tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", EIGHT_DEVICES)
def test_runs_on_eight_devices(name, tmp_path):
    (source,) = build.sources([name])
    eight = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    require_as_kept(source, build.run(build.read(source), tmp_path, eight))


def require_as_kept(source: Path, ran: Any) -> None:
    """The outputs of a run are those that are kept, but for numbers."""
    there = kept(source)
    assert build.unclean(ran) == []
    for new, old in zip(code_cells(ran), code_cells(there), strict=True):
        if there.metadata.flaxzoo.data == ran.metadata.flaxzoo.data:
            assert kinds(new) == kinds(old), new.source
            if "varies" not in new.metadata.get("tags", ()):
                assert words(new) == words(old), new.source


def test_a_notebook_looks_as_our_pictures_do():
    with plt.style.context("train.measure.pictures"):
        colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert colors[:2] == [pictures.BLUE, pictures.ORANGE]
    assert len(set(colors)) == 7
