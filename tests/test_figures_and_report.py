"""Figures of a results folder written by hand: what is drawn, and how a bad folder is named."""

import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr

from analysis import figures, head_functions, universal_heads
from analysis.drawing import ticks
from analysis.figures import one_of_each, telling_heads
from analysis.head_maps import marks
from analysis.module_maps import mean_by_role
from analysis.results import ResultsError
from tests.synthetic_results import MULTIMODAL, TEXT, VISION, effects, write_results


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("report"))
    universal_heads.find_and_write(folder, universal_heads.Rule(permutations=50))
    head_functions.find_and_write(folder)
    return folder


@pytest.fixture(scope="module")
def drawn(results) -> list[Path]:
    return figures.draw_all(results, samples=2)


def test_every_figure_is_drawn_twice(results, drawn):
    names = sorted(str(path.relative_to(results / "figures")) for path in drawn)
    blip = ["attention-overlays", "sip-cross_attention-heads", "sip-modules", "str-cross_attention-heads", "str-modules"]
    llava = [name.replace("cross", "self") for name in blip]
    assert names == sorted([f"blip-small/shapes/{name}.png" for name in blip] + [f"llava-small/shapes/{name}.png" for name in llava])
    for path in drawn:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_drawing_leaves_the_style_alone_and_gives_the_same_bytes(results, drawn, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(results / "blip-small" / "shapes" / "sip", copy / "blip-small" / "shapes" / "sip")
    before = dict(matplotlib.rcParams)
    first = {path.name: (path.read_bytes(), path.with_suffix(".pdf").read_bytes()) for path in figures.draw_all(copy)}
    assert dict(matplotlib.rcParams) == before
    second = {path.name: (path.read_bytes(), path.with_suffix(".pdf").read_bytes()) for path in figures.draw_all(copy)}
    assert first == second


def test_module_maps_average_over_samples_and_order_roles_by_place():
    logits = np.arange(12, dtype=float).reshape(2, 2, 3)
    found = mean_by_role(effects(logits, range(3), ["[CLS]", "noun", "noun"]))
    assert list(found["role"].values) == ["[CLS]", "noun"]
    np.testing.assert_allclose(found.values, np.stack([logits.mean(0)[:, 0], logits.mean(0)[:, 1:].mean(1)], axis=1) + 0)


def test_marks_name_universal_and_important_heads(results):
    universal = universal_heads.find(results, universal_heads.Rule(permutations=0))["blip-small"]
    assert marks(universal, "sip", "shapes") == {VISION: "vision", TEXT: "text", MULTIMODAL: "multimodal"}
    universal["kind"][:] = "none"
    assert marks(universal, "sip", "shapes") == {VISION: "important", MULTIMODAL: "important"}
    assert marks(universal, "gaussian_noise", "shapes") == {}


def test_overlays_show_universal_heads_and_the_strongest_others(results):
    universal = universal_heads.find(results, universal_heads.Rule(permutations=0))["blip-small"]
    chosen = telling_heads(universal, 5)
    assert set(chosen[:3]) == {VISION, TEXT, MULTIMODAL}
    assert len(chosen) == len(set(chosen)) == 5
    assert one_of_each(np.array(["a", "a", "b", "a", "b"]), 3) == [0, 2, 1]


def test_ticks_stay_few():
    assert ticks(4) == [0, 1, 2, 3]
    assert ticks(32) == list(range(0, 32, 2))


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(ResultsError, match="no results folder at"):
        figures.draw_all(tmp_path / "nothing")
    with pytest.raises(ResultsError, match="nothing to draw below"):
        figures.draw_all(tmp_path)


def test_an_unknown_metric_is_named(results):
    with pytest.raises(ResultsError, match="there is no metric 'kl'"):
        figures.draw_all(results, metric="kl")


def test_an_overlay_needs_no_mask(results, tmp_path):
    shutil.copytree(results / "blip-small", tmp_path / "blip-small")
    shutil.copy(results / "universal_heads.nc", tmp_path)
    path = tmp_path / "blip-small" / "shapes" / "attention.nc"
    with xr.open_dataset(path) as attention:
        changed = attention.load()
    changed["object_share"][:] = np.nan
    path.unlink()
    changed.to_netcdf(path)
    shutil.rmtree(tmp_path / "blip-small" / "shapes" / "sip")
    shutil.rmtree(tmp_path / "blip-small" / "shapes" / "str")
    assert [path.name for path in figures.draw_all(tmp_path, samples=1, heads=2)] == ["attention-overlays.png"]
