"""Shared fixtures: the two shipped models, a clean/corrupt pair of each modality; what they need is loaded when they are asked for."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def pytest_collection_finish():
    """One CPU thread, where any test needs torch; tests of the analysis alone do not load it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def shipped(name):
    import torch

    from interventions.models.loading import load

    torch.set_num_threads(1)
    return load(name, device="cpu")


@pytest.fixture(scope="session")
def blip():
    return shipped("blip-shapes")


@pytest.fixture(scope="session")
def llava():
    return shipped("llava-shapes")


@pytest.fixture(scope="session", params=["blip", "llava"])
def vlm(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def shapes():
    from data_prep.scenes.table import make_shapes

    return make_shapes(4, seed=1, progress=False)


@pytest.fixture(scope="session")
def data(tmp_path_factory, shapes):
    """The folder of these samples as a prepared table."""
    from data_prep.tables import schema as sample_table

    folder = tmp_path_factory.mktemp("data") / "shapes"
    sample_table.save(shapes, folder, {"name": "shapes", "seed": 1, "left_out": []})
    return str(folder)


@pytest.fixture(scope="session")
def make_pair(shapes):
    """A pair of the data set by number and corruption."""
    from corruptions.base import CORRUPTIONS

    def make(vlm, corruption, number=0):
        return CORRUPTIONS[corruption].make(shapes).corrupt(shapes[number], vlm.prompt)

    return make
