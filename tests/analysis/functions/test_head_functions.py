"""From attention files to the files of head functions; masks of other samples give no object heads, nor on the shipped model."""

import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analysis import head_functions
from analysis.functions import tables
from analysis.functions.registry import OVERALL, Thresholds, of_object
from analysis.head_functions import HeadFunctions, find, write
from analysis.page.tables import _function, function_rows
from analysis.store.errors import NothingToAnalyse, ResultsError
from analysis.store.folder import read_tree
from analysis.universal_heads import UniversalHeads
from analysis.universal_heads import write as write_universal
from interventions.attention_patterns import map_attention
from interventions.study.options import Options
from tests.support.synthetic_attention import null_attention
from tests.support.synthetic_results import (
    DETECTS,
    HEADS,
    LAYERS,
    SUPPRESSES_OBJECT,
    SUPPRESSES_OUTLIERS,
    attention_dataset,
    object_masks,
    planted_attention,
    save,
    write_results,
)

PLANTED = {DETECTS: "object_detection", SUPPRESSES_OBJECT: "object_suppression", SUPPRESSES_OUTLIERS: "outlier_suppression"}
QUICK = HeadFunctions(resamples=200, permutations=5)
FILES = {f"head_functions{end}" for end in (".nc", ".csv", "_by_task.csv", "_validation.csv", "_agreement.csv")}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = write_results(tmp_path_factory.mktemp("results"))
    write_universal(folder, UniversalHeads(permutations=0))
    write(folder, QUICK)
    return folder


@pytest.fixture(scope="module")
def shipped(blip, tmp_path_factory):
    """What heads of the shipped model do, from its own attention on rendered scenes."""
    out = tmp_path_factory.mktemp("shipped")
    from interventions.backends.opening import prepare  # of all tests of the analysis, this one alone runs a model

    map_attention(prepare(Options(model="blip-shapes", data="shapes", samples=12, out=out, seed=3), blip))
    return find(out, Thresholds(resamples=200, permutations=20))["blip-shapes"]


def test_the_files_hold_every_task_head_and_kind(results):
    assert {path.name for path in results.glob("head_functions*")} == FILES
    found = read_tree(results / "head_functions.nc")
    xr.testing.assert_identical(found["blip-small"], read_tree(results / "head_functions.nc")["blip-small"])
    assert list(found["blip-small"]["task"].values) == [OVERALL, "shapes/colour", "shapes/shape"]
    assert found["blip-small"].attrs | {"gain": 0.05, "query": "correct", "component": "cross_attention"} == found["blip-small"].attrs
    rows = pd.read_csv(results / "head_functions.csv", keep_default_na=False)
    assert len(rows) == 2 * 3 * LAYERS * HEADS
    for at, function in PLANTED.items():
        of_head = rows[(rows.layer == at[0]) & (rows["head"] == at[1])]
        assert set(of_head.function) == {function}
        assert set(of_head[f"{function}_verdict"]) == {"yes"}
        assert (of_head[f"{function}_q"].astype(float) <= 0.05).all()
    assert set(rows[rows.name == "L1.H2"].kind) == {"vision"}
    numbers = rows[["object_gain_low", "object_gain", "object_gain_high"]].astype(float).to_numpy()
    assert (np.diff(numbers, axis=1) >= 0).all()


def test_the_tables_by_task_and_of_permuted_masks(results):
    by_task = pd.read_csv(results / "head_functions_by_task.csv", keep_default_na=False)
    assert len(by_task) == 2 * LAYERS * HEADS
    row = by_task[(by_task.model == "blip-small") & (by_task.name == "L3.H0")].iloc[0]
    assert (row.overall, row["shapes/colour"], row.object_detection_tasks, row.polysemantic) == ("object_detection",) * 2 + (2, False)
    validation = pd.read_csv(results / "head_functions_validation.csv")
    assert len(validation) == 2 * 3 * QUICK.permutations
    assert (validation[of_object()] == 0).all(axis=None)
    assert (validation[[f"{rule}_own" for rule in of_object()]] == 1).all(axis=None)


def test_the_report_and_figures_find_what_they_read(results):
    dataset = read_tree(results / "head_functions.nc")["llava-small"]
    for name in ("function", "object_mass", "object_gain", "object_gain_z", "object_ratio", "even_gain", "auroc", "outlier_ratio"):
        assert dataset[name].dims == ("task", "layer", "head")
    assert dataset["outlier_on_object"].dims == ("task",)


def test_several_data_sets_are_tasks_of_one_model(tmp_path):
    masks = object_masks()
    maps = planted_attention(np.random.default_rng(0), masks)
    save(attention_dataset(maps, masks, ["colour"]), tmp_path / "m" / "one" / "attention.nc")
    save(attention_dataset(maps[:20], np.full_like(masks[:20], np.nan), ["colour"]), tmp_path / "m" / "two" / "attention.nc")
    found = find(tmp_path, QUICK)["m"]
    assert list(found["task"].values) == [OVERALL, "one/colour", "two/colour"]
    assert found["samples_with_object"].values[:, 0, 0].tolist() == [24, 24, 0]
    assert found["samples_with_outliers"].values[:, 0, 0].tolist() == [44, 44 - 20, 20]
    assert found["function"].values[:, *DETECTS].tolist() == ["object_detection", "object_detection", "undecidable"]
    assert found["permuted_object_heads"].sel(task="two/colour").sum() == 0


def test_permuted_masks_give_no_object_heads_where_heads_only_prefer_the_places_of_objects(tmp_path):
    save(null_attention(0, samples=60).assign_attrs(component="cross_attention"), tmp_path / "m" / "d" / "attention.nc")
    found = find(tmp_path, Thresholds(resamples=0, permutations=20))["m"]
    assert found["permuted_object_heads"].shape == (20, 3, 2)
    assert int(found["permuted_object_heads"].sum()) == 0


def test_the_shipped_model_has_object_heads_and_with_masks_of_other_samples_none(shipped):
    own = (shipped["verdict"] == "yes").sum(("layer", "head")).sel(task=OVERALL)
    assert int(own.sel(rule="object_detection")) >= 2
    assert int(shipped["permuted_object_heads"].sum()) == 0
    detects = shipped["verdict"].sel(rule="object_detection", task=OVERALL).values == "yes"
    overall = shipped.sel(task=OVERALL)
    assert (overall["auroc_low"].values[detects] > 0.5).all()
    assert (overall["object_gain_low"].values[detects] > 0).all()
    assert (overall["pointing"].values > overall["pointing_elsewhere"].values)[detects].all()
    assert (overall["inside_low"].values > overall["outside_high"].values)[detects].all()


def test_without_attention_nothing_is_written_and_nothing_stale_stays(tmp_path):
    for name in FILES:
        (tmp_path / name).write_text("old")
    with pytest.raises(NothingToAnalyse, match="collect attention maps first"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ResultsError, match="no results folder"):
        find(tmp_path / "nothing")
    path = tmp_path / "m" / "d" / "attention.nc"
    save(xr.Dataset({"attention": (("sample", "layer", "head", "patch"), np.ones((1, 1, 1, 4)))}), path)
    with pytest.raises(ResultsError, match=r"attention.nc lacks object_share, category"):
        find(tmp_path)
    save(null_attention(0).isel(sample=slice(0)), path)
    with pytest.raises(ResultsError, match="has no samples"):
        find(tmp_path)
    path.write_bytes(b"no file")
    with pytest.raises(ResultsError, match="damaged"):
        find(tmp_path)
    save(null_attention(0), path)
    save(null_attention(0, heads=3), tmp_path / "m" / "e" / "attention.nc")
    with pytest.raises(ResultsError, match="different numbers of"):
        find(tmp_path)


def test_the_command_prints_what_was_found(results, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["head_functions", "--results", str(results), "--permutations", "3", "--resamples", "100"])
    head_functions.main()
    said = capsys.readouterr().out
    assert "blip-small: object detection: 1; object suppression: 1; outlier suppression: 1; none: 21; undecidable: 0 heads" in said
    assert "object detection: L3.H0" in said
    assert "with masks of other samples 0 on average, 0 of 3 exchanges of masks name any" in said
    assert "sip, object detection (1): mean effect +" in said
    assert said.count("as expected") == 4
    assert "against what is expected" in said
    monkeypatch.setattr(sys, "argv", ["head_functions", "--results", str(results / "nothing")])
    with pytest.raises(SystemExit, match="no results folder"):
        head_functions.main()


def test_without_masks_the_words_say_what_is_undecidable(tmp_path, monkeypatch, capsys):
    masks = object_masks()
    maps = planted_attention(np.random.default_rng(0), masks)
    save(attention_dataset(maps, np.full_like(masks, np.nan)), tmp_path / "m" / "d" / "attention.nc")
    monkeypatch.setattr(sys, "argv", ["head_functions", "--results", str(tmp_path)])
    head_functions.main()
    said = capsys.readouterr().out
    assert "object detection and suppression are undecidable: too few samples have a mask of the object" in said
    assert "exchanges of masks" not in said
    assert set(pd.read_csv(tmp_path / "head_functions.csv").object_detection_verdict) == {"undecidable"}
    assert pd.read_csv(tmp_path / "head_functions_validation.csv").empty
    assert pd.read_csv(tmp_path / "head_functions_agreement.csv").empty


def test_the_words_say_which_function_is_undecidable_and_the_corrected_p(results):
    found = read_tree(results / "head_functions.nc")["blip-small"]
    found = found.assign({name: found[name].astype(object) for name in ("function", "verdict")})
    found["verdict"].loc[{"rule": "outlier_suppression", "task": OVERALL, "layer": [1, 2], "head": 0}] = "undecidable"
    found["verdict"].loc[{"rule": "object_detection", "task": OVERALL, "layer": 2, "head": 0}] = "undecidable"
    found["function"].loc[{"task": OVERALL, "layer": [1, 2], "head": 0}] = "undecidable"
    agreed = pd.read_csv(results / "head_functions_agreement.csv").assign(p_in_layers=0.01, q_in_layers=0.25)
    said = tables.summary({"blip-small": found}, agreed)
    assert "none: 19; undecidable (object detection, outlier suppression): 1; undecidable (outlier suppression): 1 heads" in said
    assert "(q = 0.25)" in said
    assert "0.01)" not in said
    rows = tables.by_task({"blip-small": found}).set_index("name")
    assert rows.overall_undecidable[["L1.H0", "L2.H0", "L0.H0"]].tolist() == [
        *("outlier suppression", "object detection, outlier suppression", "")
    ]
    shown = {row["name"]: row["function"] for row in function_rows(found, read_tree(results / "universal_heads.nc").get("blip-small"))}
    assert shown["L3.H0"] == "object detection"
    assert _function(found, 1, 0) == "undecidable (outlier suppression)"
