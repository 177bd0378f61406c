"""The notebook of the documentation runs from the first to the last cell, and shows what it says."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

NOTEBOOK = (
    Path(os.environ.get("CASCADE_RT_ROOT", Path(__file__).parents[2])) / "docs/notebooks/from-file-to-figures.ipynb"
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of Jupyter itself
def test_the_notebook_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    if sys.platform == "win32":
        asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    pictures = [out for cell in cells for out in cell.outputs if "image/png" in out.get("data", {})]
    assert len(pictures) == 2
    text = "".join(out.get("text", "") for cell in cells for out in cell.outputs)
    assert "model GCaMP8_EXC_30Hz_smoothing25ms" in text
    assert "single spikes, the first at" in text
