"""The notebooks run from their first cell to their last on a results folder written by hand, and show what is planted in it."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from analysis import head_functions
from tests.support.synthetic_results import write_results

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "analysis" / "notebooks").glob("*.ipynb"))
SHOWN = {  # text that must be among a notebook's outputs, and how many figures
    "1_load_results": (("cross_attention", "logit_difference", "blip-small/shapes/sip/mlp", "answered <wrongly>"), 0),
    "2_look_at_a_head": (("blip-small L0.H5: text", "Is this red or blue?", "outlier_suppression", "an even share is 17%"), 3),
    "3_compare_two_models": (("blip-small: vision: L1.H2", "llava-small: vision: L1.H2", "difference"), 1),
    "4_figure_for_a_paper": (("figures/paper/blip-small-heads.png",), 2),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("notebooks"))
    head_functions.write(folder)
    return folder


def test_there_is_a_check_for_each_notebook():
    assert [path.stem for path in NOTEBOOKS] == list(SHOWN)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, results, tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_NOTICE_RESULTS", str(results))
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute(
        env=os.environ.copy()
    )
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "\n".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)
    assert [output for output in outputs if output.output_type == "stream" and output.name == "stderr"] == []
    wanted, pictures = SHOWN[path.stem]
    assert [part for part in wanted if part not in text] == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) == pictures
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_starts_from_a_folder_that_can_be_named(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert 'os.environ.get("VLM_NOTICE_RESULTS", root / "results")' in code[0].source
    assert notebook.cells[0].source.startswith("# ")
