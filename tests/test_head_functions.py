"""Scores against numbers worked out by hand; planted functions named, noise not; what is undecidable; the files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analysis.head_functions import OVERALL, Thresholds, find, find_and_write, functions, score_samples
from analysis.head_scores import auroc, evenness, normalized, outlier_patches, ranks, scores
from analysis.results import ResultsError, read_tree
from analysis.universal_heads import Rule
from analysis.universal_heads import find_and_write as find_universal
from tests.synthetic_results import (
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


def judged(maps: np.ndarray, masks: np.ndarray, **thresholds) -> np.ndarray:
    return functions(score_samples(attention_dataset(maps, masks)), Thresholds(**thresholds))["function"].values


def test_ranks_share_ties():
    np.testing.assert_array_equal(ranks(np.array([[3.0, 1.0, 3.0, 7.0], [2.0, 2.0, 2.0, 2.0]])), [[2.5, 1, 2.5, 4], [2.5] * 4])


def test_auroc_agrees_with_counting_pairs():
    generator = np.random.default_rng(0)
    values, inside = generator.integers(0, 4, (3, 9)).astype(float), np.arange(9) % 3 == 0
    for row, found in zip(values, auroc(values, inside), strict=True):
        pairs = [(a > b) + 0.5 * (a == b) for a in row[inside] for b in row[~inside]]
        assert found == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(values, np.zeros(9, dtype=bool))).all()


def test_evenness_is_1_for_an_even_map_and_0_for_one_patch():
    np.testing.assert_allclose(evenness(np.array([[1.0, 1, 1, 1], [5, 0, 0, 0], [1, 1, 0, 0]])), [1, 0, 0.5], atol=1e-12)


def test_outlier_patches_are_few_and_may_be_none():
    mean = np.array([1.0] * 15 + [9.0])  # mean 1.5, SD sqrt(15) / 2 = 1.94
    np.testing.assert_array_equal(outlier_patches(mean), np.arange(16) == 15)
    assert not outlier_patches(np.full(16, 1 / 16)).any()
    for seed in range(5):
        assert outlier_patches(np.random.default_rng(seed).pareto(1, 100)).sum() <= 20


def test_scores_by_hand():
    # two heads, ten patches: the first gives all to the object (patch 9), the second 0.55 to patch 0 and 0.05 to each other
    attention = np.array([[[0.0] * 9 + [0.4], [0.55] + [0.05] * 9]])
    share = np.array([0.0] * 9 + [0.5])
    # mean map: 0.275, 0.025 x 8, 0.525, whose mean is 0.1 and SD 0.16: patches 0 and 9 are outliers at 1 deviation
    found = scores(attention, share, deviations=1.0)
    np.testing.assert_allclose(found["object_mass"], [[0.5, 0.025]])
    np.testing.assert_allclose(found["mean_object_mass"], [[0.2625, 0.2625]])
    np.testing.assert_allclose(found["even_object_mass"], [[0.05, 0.05]])
    np.testing.assert_allclose(found["auroc"], [[1, 4 / 9]])  # the second: ties with 8 of 9 patches, below one
    np.testing.assert_allclose(found["outlier_ratio"], np.array([[1.0, 0.6]]) / 0.8)
    assert np.isnan(found["evenness"][0, 0])  # nothing is left to be spread
    assert found["evenness"][0, 1] == pytest.approx(1)


def test_a_head_that_ignores_the_image_has_no_scores_and_leaves_the_mean_alone():
    attention = np.random.default_rng(0).uniform(size=(1, 3, 16))
    attention[0, 1] = 0
    found = scores(attention, np.array([1.0] * 4 + [0] * 12))
    assert np.isnan(found["object_mass"][0, 1])
    expected = normalized(attention[:, [0, 2]]).mean(axis=(0, 1))[:4].sum()
    assert found["mean_object_mass"][0, 0] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_noise_has_no_function(seed):
    generator = np.random.default_rng(seed)
    masks = object_masks()
    assert set(judged(generator.uniform(size=(24, LAYERS, HEADS, 64)), masks).ravel()) == {"none"}
    assert set(judged(generator.exponential(size=(24, LAYERS, HEADS, 64)), masks).ravel()) == {"none"}


@pytest.mark.parametrize("seed", range(3))
def test_planted_functions_are_named_and_no_others(seed):
    masks = object_masks()
    found = judged(planted_attention(np.random.default_rng(seed), masks), masks)
    assert {(int(a), int(b)): found[a, b] for a, b in np.argwhere(found != "none")} == PLANTED


def test_spreading_evenly_is_not_detection():
    # most heads look at the outliers, so an even head has more on the object than the mean head: that alone detects nothing
    masks = object_masks()
    maps = planted_attention(np.random.default_rng(0), masks)
    maps[..., :2] *= 20
    maps[:, 2, 2] = np.random.default_rng(1).uniform(0.9, 1.1, masks.shape)
    scored = functions(score_samples(attention_dataset(maps, masks)))
    assert float(scored["object_gain"][2, 2]) > 0.05
    assert scored["function"].values[2, 2] == "outlier_suppression"


def test_without_masks_only_outlier_suppression_can_be_named():
    masks = object_masks()
    maps = planted_attention(np.random.default_rng(0), masks)
    found = judged(maps, np.full_like(masks, np.nan))
    assert found[SUPPRESSES_OUTLIERS] == "outlier_suppression"
    assert sorted(set(found.ravel())) == ["outlier_suppression", "undecidable"]


def test_too_few_samples_are_undecidable():
    masks = object_masks(6)
    maps = planted_attention(np.random.default_rng(0), masks)
    assert set(judged(maps, masks).ravel()) == {"undecidable"}
    assert judged(maps, masks, min_samples=6)[DETECTS] == "object_detection"


def test_an_inconsistent_gain_is_not_enough():
    # one sample in ten with everything on the object: the mean gain is 0.08, but no 3 standard errors above 0
    masks = object_masks(20)
    maps = np.random.default_rng(0).uniform(0.9, 1.1, (20, LAYERS, HEADS, 64))
    maps[::10, 0, 0] = 1e-6 + masks[::10]
    scored = functions(score_samples(attention_dataset(maps, masks)))
    assert float(scored["object_gain"][0, 0]) > 0.05
    assert scored["function"].values[0, 0] == "none"


def test_the_files_hold_each_task_and_the_kind(tmp_path):
    results = write_results(tmp_path, models=["blip-small"])
    find_universal(results, Rule(permutations=0))
    found = find_and_write(results)
    assert list(found["blip-small"]["task"].values) == [OVERALL, "shapes/colour", "shapes/shape"]
    xr.testing.assert_equal(read_tree(results / "head_functions.nc")["blip-small"], found["blip-small"])
    rows = pd.read_csv(results / "head_functions.csv", keep_default_na=False)
    assert len(rows) == 3 * LAYERS * HEADS
    for at, function in PLANTED.items():
        of_head = rows[(rows.layer == at[0]) & (rows["head"] == at[1])]
        assert set(of_head.function) == {function}
    assert set(rows[rows.name == "L1.H2"].kind) == {"vision"}


def test_without_attention_nothing_is_written_and_nothing_stale_stays(tmp_path):
    (tmp_path / "head_functions.csv").write_text("old")
    assert find_and_write(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ResultsError, match="no results folder"):
        find(tmp_path / "nothing")
    path = Path(tmp_path) / "m" / "d" / "attention.nc"
    save(xr.Dataset({"attention": (("sample", "layer", "head", "patch"), np.ones((1, 1, 1, 4)))}), path)
    with pytest.raises(ResultsError, match=r"attention.nc lacks object_share, category"):
        find(tmp_path)
