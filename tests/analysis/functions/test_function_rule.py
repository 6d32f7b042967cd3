"""The rule: planted functions named, chance not; its statistics against scipy and simulation; what is undecidable."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from analysis.functions.registry import FUNCTIONS, OVERALL, Thresholds, of_object
from analysis.functions.rule import functions, judge
from analysis.functions.samples import OF_OBJECT, exchanged, score_samples
from analysis.functions.statistics import corrected, interval, one_sided, standard_errors, stratified_weights, two_sided_p, weighted_mean
from analysis.store.folder import ResultsError
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
)

PLANTED = {DETECTS: "object_detection", SUPPRESSES_OBJECT: "object_suppression", SUPPRESSES_OUTLIERS: "outlier_suppression"}
NO_FLOORS = {"gain": -9.0, "auroc": 0.0, "away": 99.0, "strong": 0.0}
QUICK = Thresholds(resamples=0)


def judged(maps: np.ndarray, masks: np.ndarray, **thresholds) -> xr.Dataset:
    return functions(score_samples(attention_dataset(maps, masks)), Thresholds(**{"resamples": 0} | thresholds))


def by_task(scores: xr.Dataset) -> dict[str, xr.Dataset]:
    category = scores["category"].values
    return {OVERALL: scores} | {f"d/{c}": scores.isel(sample=category == c) for c in sorted(set(category))}


def named(found: xr.Dataset, rules=None) -> int:
    return int((found["verdict"].sel(rule=list(rules or of_object())) == "yes").sum())


def test_correction_is_scipys_within_each_function_times_their_number():
    p = np.random.default_rng(0).uniform(size=(3, 2, 5)) ** 3
    p[1, 0, 2] = np.nan
    found = corrected(p)
    for rule in range(3):
        there = np.isfinite(p[rule])
        expected = np.minimum(3 * stats.false_discovery_control(p[rule][there]), 1)
        np.testing.assert_allclose(found[rule][there], expected)
    assert np.isnan(found[1, 0, 2])


def test_p_values_are_students_also_where_samples_are_missing():
    values = np.random.default_rng(1).normal(0.3, 1, (20, 6))
    values[:7, 2], values[:, 5] = np.nan, np.nan
    two = two_sided_p(values, 0, np.random.default_rng(0))
    sign = np.sign(np.nan_to_num(values).sum(axis=0))
    for head in range(5):
        x = values[:, head][np.isfinite(values[:, head])]
        assert two[head] == pytest.approx(stats.ttest_1samp(x, 0).pvalue)
        for side, alternative in ((1, "greater"), (-1, "less")):
            assert one_sided(two, sign, side)[head] == pytest.approx(stats.ttest_1samp(x, 0, alternative=alternative).pvalue)
    assert two[5] == 1
    flips = two_sided_p(values, 20_000, np.random.default_rng(0))
    np.testing.assert_allclose(flips[:5], two[:5], atol=0.02)


def test_a_missing_sample_leaves_the_flips_of_the_others():
    values = np.random.default_rng(2).normal(0.5, 1, (10, 2))
    padded = np.insert(values, 4, np.nan, axis=0)
    np.testing.assert_allclose(two_sided_p(padded, 5000, np.random.default_rng(0)), two_sided_p(values, 5000, np.random.default_rng(0)))
    exact = stats.permutation_test((values[:, 0],), np.sum, permutation_type="samples", n_resamples=5000).pvalue
    assert two_sided_p(values, 5000, np.random.default_rng(0))[0] == pytest.approx(exact)


def test_means_by_weights_leave_missing_samples_out_and_strata_keep_their_share():
    generator = np.random.default_rng(3)
    values = generator.normal(size=(12, 3))
    values[[0, 5], 1] = np.nan
    weights = generator.multinomial(12, np.full(12, 1 / 12), size=7).astype(float)
    expected = [[np.average(x[np.isfinite(x)], weights=w[np.isfinite(x)]) for x in values.T] for w in weights]
    np.testing.assert_allclose(weighted_mean(values, weights), expected)
    strata = np.array(["a"] * 9 + ["b"] * 3)
    drawn = stratified_weights(strata, 50, generator)
    assert set(drawn[:, :9].sum(axis=1)) == {9}
    assert set(drawn[:, 9:].sum(axis=1)) == {3}
    low, high = interval(np.array([[1.0, np.nan, np.nan], [2.0, 4.0, np.nan], [3.0, 5.0, np.nan]]), 0.5)
    np.testing.assert_allclose(low, [1.5, 4.25, np.nan])
    np.testing.assert_allclose(high, [2.5, 4.75, np.nan])


def test_standard_errors_are_students_t():
    values = np.random.default_rng(4).normal(1, 1, (15, 2))
    np.testing.assert_allclose(standard_errors(values), stats.ttest_1samp(values, 0).statistic)
    found = standard_errors(np.array([[2.0, -2.0, 0.0, 1.0], [2.0, -2.0, 0.0, np.nan]]))
    np.testing.assert_array_equal(found, [np.inf, -np.inf, 0, np.nan])


@pytest.mark.parametrize("seed", range(3))
def test_planted_functions_are_named_and_no_others(seed):
    masks = object_masks()
    function = judged(planted_attention(np.random.default_rng(seed), masks), masks)["function"].values
    assert {(int(a), int(b)): function[a, b] for a, b in np.argwhere(function != "none")} == PLANTED


@pytest.mark.parametrize("seed", range(2))
def test_noise_has_no_function(seed):
    generator = np.random.default_rng(seed)
    maps = generator.exponential(size=(40, LAYERS, HEADS, 64))
    found = judged(maps, object_masks(40))
    assert named(found, FUNCTIONS) == 0


def test_spreading_evenly_is_not_detection():
    # most heads look at the outliers, so an even head has more on the object than the mean head: that alone detects nothing
    masks = object_masks()
    maps = planted_attention(np.random.default_rng(0), masks)
    maps[..., :2] *= 20
    maps[:, 2, 2] = np.random.default_rng(1).uniform(0.9, 1.1, masks.shape)
    found = judged(maps, masks)
    assert float(found["object_gain"][2, 2]) > 0.05
    assert found["function"].values[2, 2] == "outlier_suppression"


def test_preferring_the_places_of_objects_is_neither_detection_nor_suppression():
    masks = object_masks()
    maps = np.random.default_rng(0).uniform(0.9, 1.1, (24, LAYERS, HEADS, 64))
    maps[:, 0, 0] += 8 * masks.mean(axis=0)
    maps[:, 1, 1, :16] += 8  # the two upper rows, where no object is
    found = judged(maps, masks)
    assert float(found["object_gain"][0, 0]) > 0.05
    assert float(found["object_gain_z"][0, 0]) > 10
    assert float(found["auroc"][0, 0]) > 0.7
    assert float(found["object_ratio"][1, 1]) < 0.5
    assert named(found) == 0


def test_a_head_that_always_looks_at_the_outliers_suppresses_no_object():
    # it looks away from the objects of all samples alike: without floors, only selectivity tells
    masks = object_masks()
    maps = planted_attention(np.random.default_rng(0), masks)
    maps[:, 2, 2] = np.random.default_rng(1).uniform(0.9, 1.1, masks.shape) * np.where(np.arange(64) < 2, 60, 1)
    found = judged(maps, masks, **NO_FLOORS)
    assert float(found["object_gain_z"][2, 2]) < -10
    assert float(found["object_ratio"][2, 2]) < 0.5
    assert float(found["outlier_ratio_off_object"][2, 2]) > 1.5
    suppresses = found["verdict"].sel(rule="object_suppression").values
    assert (suppresses[2, 2], suppresses[SUPPRESSES_OBJECT]) == ("no", "yes")


def test_attention_to_outliers_on_the_object_is_no_suppression_of_it():
    masks = np.tile(np.eye(64)[20], (24, 1)) + np.eye(64)[40 + np.arange(24) % 4]  # a part that stays, a part that wanders
    maps = np.random.default_rng(0).uniform(0.9, 1.1, (24, LAYERS, HEADS, 64))
    maps[..., [0, 20]] *= 12
    maps[:, 0, 0, 20] *= 8
    found = judged(maps, masks)
    assert float(found["outlier_ratio"][0, 0]) > 1.5 > float(found["outlier_ratio_off_object"][0, 0])


def test_without_masks_only_outlier_suppression_can_be_named():
    masks = object_masks()
    maps = planted_attention(np.random.default_rng(0), masks)
    found = judged(maps, np.full_like(masks, np.nan))
    assert found["function"].values[SUPPRESSES_OUTLIERS] == "outlier_suppression"
    assert sorted(set(found["function"].values.ravel())) == ["outlier_suppression", "undecidable"]
    assert set(found["verdict"].sel(rule=list(of_object())).values.ravel()) == {"undecidable"}
    assert found["p"].sel(rule=list(of_object())).isnull().all()
    assert found["q"].sel(rule="outlier_suppression").notnull().all()
    assert all(found[name].isnull().all() for name in (*OF_OBJECT, "object_gain", "object_ratio", "object_lift"))


def test_too_few_samples_are_undecidable():
    masks = object_masks(9)
    maps = planted_attention(np.random.default_rng(0), masks)
    assert set(judged(maps, masks)["function"].values.ravel()) == {"undecidable"}
    fewer = judged(maps, masks, min_samples=9, flips=200_000)  # nine samples have too few flips: by Student's t
    assert fewer["verdict"].sel(rule="object_detection").values[DETECTS] == "yes"


def test_a_function_that_a_test_rules_out_is_not_undecidable_for_want_of_another():
    masks = object_masks()
    maps = planted_attention(np.random.default_rng(0), masks)
    scores = score_samples(attention_dataset(maps, masks))
    scores["outlier_ratio_off_object"][5:] = np.nan
    verdict = functions(scores, QUICK)["verdict"].sel(rule="object_suppression").values
    assert verdict[DETECTS] == "no"
    assert verdict[SUPPRESSES_OBJECT] == "undecidable"


def test_an_inconsistent_gain_is_not_enough():
    # one sample in ten with everything on the object: the mean gain is large, but not beyond chance
    masks = object_masks(20)
    maps = np.random.default_rng(0).uniform(0.9, 1.1, (20, LAYERS, HEADS, 64))
    maps[::10, 0, 0] = 1e-6 + masks[::10]
    found = judged(maps, masks)
    assert float(found["object_gain"][0, 0]) > 0.05
    assert float(found["object_selectivity"][0, 0]) > 0.05
    assert found["function"].values[0, 0] == "none"


def test_floors_are_asked_for_as_well():
    masks = object_masks()
    maps = planted_attention(np.random.default_rng(0), masks)
    for name, value in {"gain": 0.9, "auroc": 1.1}.items():
        assert judged(maps, masks, **{name: value})["verdict"].sel(rule="object_detection").values[DETECTS] == "no"
    for name, value in {"away": 0.0, "strong": 99.0}.items():
        assert judged(maps, masks, **{name: value})["verdict"].sel(rule="object_suppression").values[SUPPRESSES_OBJECT] == "no"
    for name, value in {"taken": 0.0, "evenness": 1.0}.items():
        assert judged(maps, masks, **{name: value})["verdict"].sel(rule="outlier_suppression").values[SUPPRESSES_OUTLIERS] == "no"


def test_attention_that_is_only_a_little_less_than_elsewhere_is_no_suppression():
    masks = object_masks()
    scores = score_samples(attention_dataset(planted_attention(np.random.default_rng(0), masks), masks))
    assert functions(scores, QUICK)["verdict"].sel(rule="object_suppression").values[SUPPRESSES_OBJECT] == "yes"
    scores["elsewhere_mass"] = scores["object_mass"] / 0.8
    found = functions(scores, QUICK)
    np.testing.assert_allclose(found["object_lift"], 0.8)
    assert float(found["p"].sel(rule="object_suppression")[SUPPRESSES_OBJECT]) < 1e-3
    assert found["verdict"].sel(rule="object_suppression").values[SUPPRESSES_OBJECT] == "no"


def test_a_head_may_do_different_things_in_different_tasks():
    masks = object_masks(48)
    maps = planted_attention(np.random.default_rng(0), masks)
    maps[1::2, *DETECTS] = maps[1::2, *SUPPRESSES_OUTLIERS]  # samples of the second category
    found = judge(by_task(score_samples(attention_dataset(maps, masks))), QUICK)
    assert found["function"].sel(task=["d/colour", "d/shape"]).values[:, *DETECTS].tolist() == ["object_detection", "outlier_suppression"]
    assert np.argwhere(found["polysemantic"].values).tolist() == [list(DETECTS)]


def test_the_same_seed_gives_the_same_and_the_test_is_named():
    scores = score_samples(null_attention(0))
    one, other = (judge(by_task(scores), Thresholds(resamples=50, seed=3)) for _ in range(2))
    xr.testing.assert_identical(one, other)
    assert one.attrs["test"] == "sign flips, 10000"
    assert judge(by_task(scores), Thresholds(resamples=0, flips=200_000)).attrs["test"] == "Student's t"


def test_too_few_flips_are_seen_in_the_smallest_q():
    scores = score_samples(null_attention(0))
    assert float(judge(by_task(scores), Thresholds(resamples=0, flips=100))["smallest_q"].max()) > 0.05
    assert float(judge(by_task(scores), QUICK)["smallest_q"].sel(task=OVERALL)) <= 0.05


@pytest.mark.parametrize(("name", "value"), [("alpha", 0.0), ("confidence", 1.0), ("flips", -1), ("permutations", -2), ("min_samples", 1)])
def test_a_setting_that_cannot_be_is_named(name, value):
    with pytest.raises(ResultsError, match=name):
        Thresholds(**{name: value})


def test_under_a_null_at_most_one_run_in_twenty_names_an_object_head():
    """240 studies: heads that share noise and prefer where objects are; no floors, so that the test alone decides."""
    runs, any_object, looks_so = 240, 0, 0
    for seed in range(runs):
        found = judge(by_task(score_samples(null_attention(seed))), Thresholds(resamples=0, **NO_FLOORS))
        any_object += named(found) > 0
        looks_so += bool(((found["object_gain_z"] > 4) & (found["auroc"] > 0.6)).any())
    assert looks_so > 0.5 * runs  # beside the mean head alone, heads do look like detectors
    assert any_object <= stats.binom.ppf(0.99, runs, 0.05)


def test_each_test_of_selectivity_keeps_its_level():
    p = []
    for seed in range(60):
        scores = score_samples(null_attention(1000 + seed, categories=1, heads=1, layers=1, samples=16), permutations=5)
        for k in range(5):
            p.append(two_sided_p(exchanged(scores, k)["object_selectivity"].values.reshape(16, -1), 0, np.random.default_rng(0))[0])
        p.append(two_sided_p(scores["object_selectivity"].values.reshape(16, -1), 0, np.random.default_rng(0))[0])
    assert np.mean(np.array(p) < 0.05) < stats.binom.ppf(0.999, len(p), 0.05) / len(p)
    assert np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.12)


def test_a_planted_object_head_is_found_and_its_interval_holds_the_truth():
    def plant(logits, masks):
        logits[:, 1, 2] += 1.5 * masks

    large = score_samples(null_attention(99, samples=2000, categories=1, plant=plant))
    truth = large.assign(object_gain=large["object_mass"] - large["mean_object_mass"]).mean("sample")
    found_in, covers, runs = 0, [], 40
    for seed in range(runs):
        drawn = large.isel(sample=np.random.default_rng(seed).choice(2000, 40, replace=False))
        found = functions(drawn, Thresholds(resamples=300, flips=2000))
        found_in += found["verdict"].sel(rule="object_detection").values[1, 2] == "yes"
        for name in ("object_selectivity", "object_gain", "auroc"):
            covers.append(((found[f"{name}_low"] <= truth[name]) & (truth[name] <= found[f"{name}_high"])).values)
    assert found_in >= 0.9 * runs
    assert 0.9 <= np.mean(covers) <= 0.99
