"""The robust rule against plain loops and scipy, its error rate and power, the files, and what bad input says."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from analysis.heads.options import RobustRule
from analysis.heads.power import power, power_text, simulate
from analysis.heads.robust import judge
from analysis.heads.robust_tables import overlap_table, summary, universal_table
from analysis.page import robust as report_robust
from analysis.robust_heads import RobustHeads, find, write
from analysis.stats.family_wise import family_wise_p
from analysis.store.folder import ResultsError, read_tree
from tests.support.synthetic_noise import noise, noise_study, skewed_study, spreads, study
from tests.support.synthetic_results import HEADS, LAYERS, MULTIMODAL, SAMPLES, TEXT, VISION, effects, save, write_results

ROOT = Path(__file__).resolve().parents[3]
FAST = RobustRule(permutations=0, resamples=0)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return write_results(tmp_path_factory.mktemp("robust"))


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """q-values from their definition: the smallest rate at which a p-value is rejected."""
    order = np.sort(p.ravel())
    rates = order * order.size / np.arange(1, order.size + 1)
    return np.array([rates[order >= one].min() for one in p.ravel()]).reshape(p.shape)


def test_a_task_against_plain_loops(generator):
    x = noise(generator, 9, spreads(generator, 2, 5))
    x[:, 1, 2] -= 12
    found = judge(study({("sip", "d/a"): x}), replace(FAST, alpha=0.1, deviations=1.5)).sel(corruption="sip", task="d/a")
    mean = x.mean(axis=0)
    p = stats.permutation_test((x,), lambda v, axis: v.mean(axis=axis), permutation_type="samples", n_resamples=np.inf, axis=0).pvalue
    np.testing.assert_allclose(found["mean_effect"].values, mean)
    np.testing.assert_allclose(found["p"].values, p)
    np.testing.assert_allclose(found["q"].values, benjamini_hochberg(p))
    np.testing.assert_array_equal(found["sign"].values, np.sign(mean))
    large = np.abs(mean) >= np.abs(mean).mean() + 1.5 * np.abs(mean).std()
    np.testing.assert_array_equal(found["stands_out"].values, large)
    np.testing.assert_array_equal(found["important"].values, large & (benjamini_hochberg(p) <= 0.1))
    assert found["important"].values[1, 2]
    assert found["sign"].values[1, 2] == -1
    np.testing.assert_allclose(found["universal_p"].values, p)
    assert float(found["smallest_p"]) == 2 / 2**9


def test_intervals_over_tasks_are_those_of_a_bootstrap_stratified_by_task(generator):
    a, b = generator.exponential(size=(20, 1, 4)), generator.normal(2, 3, size=(30, 1, 4))
    found = judge(study({("sip", "d/a"): a, ("sip", "d/b"): b}), RobustRule(resamples=20_000, confidence=0.9)).sel(corruption="sip")
    wanted = stats.bootstrap(
        (a[:, 0], b[:, 0]),
        lambda x, y, axis: (x.mean(axis=axis) + y.mean(axis=axis)) / 2,
        n_resamples=20_000,
        confidence_level=0.9,
        method="percentile",
        rng=1,
    ).confidence_interval
    np.testing.assert_allclose(found["overall_low"].values[0], wanted.low, atol=0.03)
    np.testing.assert_allclose(found["overall_high"].values[0], wanted.high, atol=0.03)
    np.testing.assert_allclose(found["overall_effect"].values[0], (a.mean(axis=0) + b.mean(axis=0))[0] / 2)
    of_a = stats.bootstrap((a[:, 0],), np.mean, n_resamples=20_000, confidence_level=0.9, method="percentile", rng=1)
    np.testing.assert_allclose(found["low"].sel(task="d/a").values[0], of_a.confidence_interval.low, atol=0.03)


def test_selection_frequencies_against_a_loop_of_resamples(generator):
    tasks = {("sip", f"d/{name}"): generator.normal(0, 1 + np.arange(6) / 5, size=(15, 1, 6)) for name in "ab"}
    found = judge(study(tasks), replace(FAST, resamples=4000, deviations=1.0)).sel(corruption="sip")
    selected = []
    for _ in range(4000):
        means = [np.abs(x[generator.integers(15, size=15), 0]).mean(axis=0) for x in tasks.values()]
        selected.append([mean >= mean.mean() + mean.std() for mean in means])
    np.testing.assert_allclose(found["notice_selection_frequency"].values[:, 0], np.mean(selected, axis=0), atol=0.04)
    np.testing.assert_allclose(found["notice_universal_frequency"].values[0], np.all(selected, axis=1).mean(axis=0), atol=0.04)
    assert 0.2 < found["notice_selection_frequency"].max() < 1


@pytest.mark.parametrize("at_least", [0, 1])
def test_frequencies_of_the_signed_rule_against_judging_each_resample(generator, at_least):
    """The share of resamples in which the rule itself, with Student's t, names a head."""
    effect = {"sip": [1, 0.8, 0, -0.7, 0, 0, 0, 0], "str": [1, 0, 0.8, 0, 0, 0, 0, 0]}
    tasks = {(c, f"d/{t}"): generator.normal(effect[c], 1, size=(25, 2, 8))[:, :1] for c in effect for t in "ab"}
    tasks["sip", "d/b"][..., 3] *= -1
    rule = replace(FAST, test="t", deviations=0.5, alpha=0.2, at_least=at_least)
    found = judge(study(tasks), replace(rule, resamples=2000))
    again = 100
    important, universal = np.zeros((2, 2, 8)), np.zeros((2, 8))
    kinds = dict.fromkeys(("vision", "text", "multimodal"), np.zeros(8))
    for _ in range(again):
        one = judge(study({key: x[generator.integers(25, size=25)] for key, x in tasks.items()}), rule)
        important += one["important"].values[:, :, 0] / again
        universal += one["universal"].values[:, 0] / again
        kinds = {kind: share + (one["kind"].values[0] == kind) / again for kind, share in kinds.items()}
    np.testing.assert_allclose(found["selection_frequency"].values[:, :, 0], important, atol=0.15)
    np.testing.assert_allclose(found["universal_frequency"].values[:, 0], universal, atol=0.15)
    for kind, share in kinds.items():
        np.testing.assert_allclose(found["kind_frequency"].sel(named=kind).values[0], share, atol=0.15)
    assert universal[0, 0] > 0.9
    assert 0.2 < universal[0, 1] < 1
    assert (universal[0, 3] > 0.2) == (at_least == 1)


def test_a_noisy_head_has_notices_frequency_and_not_this_rules(generator):
    x = generator.normal(0, 0.1, size=(40, 4, 5))
    x[:, 2, 3] *= 50
    x[:, 2, 3] -= x[:, 2, 3].mean()
    of = judge(study({("sip", "d/a"): x}), replace(FAST, resamples=300)).sel(corruption="sip", layer=2, head=3)
    assert (float(of["notice_universal_frequency"]), float(of["notice_selection_frequency"].item())) == (1, 1)
    assert max(float(of["universal_frequency"]), float(of["selection_frequency"].item())) < 0.05


def test_frequencies_do_not_depend_on_how_many_resamples_are_judged_at_a_time(generator, monkeypatch):
    tasks = study({(c, "d/a"): noise(generator, 20, spreads(generator, 2, 5)) + 0.5 for c in ("sip", "str")})
    names = ["selection_frequency", "universal_frequency", "kind_frequency"]
    rule = replace(FAST, resamples=50, deviations=0)
    whole = judge(tasks, rule)[names]
    monkeypatch.setattr("analysis.heads.resampled.BLOCK", 7)
    xr.testing.assert_identical(judge(tasks, rule)[names], whole)
    assert 0 < whole["kind_frequency"].sum() < 10


def test_heads_of_opposite_sign_are_not_shared(generator):
    """By hand: a head with +1 in one task and -1 in the other, one with +1 in both; of 12 heads."""
    tasks = {("sip", f"d/{name}"): generator.normal(0, 0.01, size=(40, 3, 4)) for name in "ab"}
    tasks["sip", "d/a"][:, 0, :2] += [1, 1]
    tasks["sip", "d/b"][:, 0, :2] += [1, -1]
    rows = overlap_table({"m": judge(study(tasks), replace(FAST, permutations=999))}).set_index(["rule", "compared"])
    robust, notice = (rows.loc[(rule, "two tasks")] for rule in ("robust", "notice"))
    assert (robust["shared"], robust["heads_a"], robust["heads_b"], robust["jaccard"]) == (1, 2, 2, 0.5)
    assert robust["expected"] == pytest.approx(2 * 1 / 12)  # two positive heads and one
    assert robust["p"] == pytest.approx(2 / 12)  # the one positive head falls on either of two, the negative one on none
    assert (notice["shared"], notice["jaccard"]) == (2, 1)
    assert notice["p"] == pytest.approx(1 / 66)
    together = rows.loc[("robust", "tasks together")]
    assert (together["at_least"], together["shared"]) == (2, 1)
    assert together["p"] == pytest.approx(2 / 12, abs=0.04)


def test_corruptions_share_universal_heads_of_the_same_sign(generator):
    tasks = {(c, "d/a"): generator.normal(0, 0.01, size=(40, 3, 4)) for c in ("sip", "str")}
    tasks["sip", "d/a"][:, 1, 1] += 1
    tasks["str", "d/a"][:, 1, 1] -= 1
    found = judge(study(tasks), FAST)
    assert found["kind"].values[1, 1] == "multimodal"
    rows = overlap_table({"m": found}).set_index(["rule", "compared"])["shared"]
    assert (rows["robust", "universal heads"], rows["robust", "two corruptions"], rows["notice", "universal heads"]) == (0, 0, 1)


def test_a_noisy_head_is_notices_and_not_this_rules(generator):
    tasks = {("sip", f"d/{name}"): generator.normal(0, 0.1, size=(40, 4, 5)) for name in "ab"}
    for x in tasks.values():
        x[:, 2, 3] *= 50
    found = judge(study(tasks), FAST)
    assert found["notice_kind"].values[2, 3] == "vision"
    assert (found["kind"].values == "none").all()


def test_universal_wants_the_same_sign_in_every_task(generator):
    tasks = {("sip", f"d/{name}"): generator.normal(0, 0.1, size=(40, 4, 5)) for name in "ab"}
    tasks["sip", "d/a"][:, :2, 0] += 1
    tasks["sip", "d/b"][:, :2, 0] += [1, -1]
    found = judge(study(tasks), FAST)
    assert found["important"].values[0, :, :2, 0].all()
    assert [found["kind"].values[i, 0] for i in range(2)] == ["vision", "none"]
    in_any = judge(study(tasks), replace(FAST, at_least=1))
    assert (in_any["kind"].values[:2, 0] == "vision").all()
    assert list(in_any["universal_sign"].values[0, :2, 0]) == [1, 0]


def test_k_of_n_tasks(generator):
    tasks = {("sip", f"d/{name}"): generator.normal(0, 0.1, size=(40, 4, 5)) for name in "abc"}
    for name in "ac":
        tasks["sip", f"d/{name}"][:, 1, 1] -= 1
    for at_least, kind in ((0, "none"), (3, "none"), (2, "vision"), (1, "vision")):
        found = judge(study(tasks), replace(FAST, at_least=at_least))
        assert found["kind"].values[1, 1] == found["notice_kind"].values[1, 1] == kind
    assert found["universal_sign"].values[0, 1, 1] == -1


def test_planted_heads_are_found(results):
    for dataset in find(results, FAST).values():
        named = {(int(a), int(b)): dataset["kind"].values[a, b] for a, b in np.argwhere(dataset["kind"].values != "none")}
        assert named == {VISION: "vision", TEXT: "text", MULTIMODAL: "multimodal"}


def test_samples_without_a_finite_effect_of_every_head_are_left_out_and_counted(tmp_path, generator):
    logits = generator.normal(1, 1, size=(16, 3, 4, 1))
    logits[0], logits[3, 1, 2], logits[5, 0, 0] = np.nan, np.nan, np.inf
    save(effects(logits, ["correct"], ["correct"]), tmp_path / "m" / "d" / "sip" / "cross_attention-heads.nc")
    found = find(tmp_path, FAST)["m"].sel(corruption="sip")
    assert (list(found["samples"].values), list(found["left_out"].values)) == ([7, 6], [1, 2])
    kept = [7, 9, 11, 13, 15, 1]
    np.testing.assert_allclose(found["mean_effect"].sel(task="d/shape").values, logits[kept].mean(axis=(0, 3)), rtol=1e-6)


def test_layers_without_such_heads_change_nothing(generator):
    """In some models layers are of two kinds."""
    x, y = (noise(generator, 40, spreads(generator, 2, 5)) for _ in range(2))
    x[:, 1, 2] += 12
    y[:, 1, 2] += 12
    dense = judge(study({("sip", "d/a"): x, ("sip", "d/b"): y}), RobustRule(resamples=100))
    sparse = {("sip", f"d/{task}"): np.full((40, 4, 5), np.nan) for task in "ab"}
    for values, of_task in zip(sparse.values(), (x, y), strict=True):
        values[:, 1::2] = of_task
    found = judge(study(sparse), RobustRule(resamples=100))
    xr.testing.assert_identical(found.isel(layer=[1, 3]).assign_coords(layer=[0, 1]), dense)
    assert found["kind"].values[3, 2] == "vision"
    absent = found.isel(layer=[0, 2])
    assert bool(absent["p"].isnull().all())
    assert not absent["important"].any()
    assert set(absent["kind"].values.ravel()) == {"none"}
    p, dense_p = (
        family_wise_p([abs(task) for task in of.effects.values()], 99) for of in (study(sparse), study({("sip", "a"): x, ("sip", "b"): y}))
    )
    np.testing.assert_array_equal(p.values[1::2], dense_p.values)
    assert np.isnan(p.values[::2]).all()


def test_no_complete_sample_is_an_error(tmp_path):
    logits = np.ones((4, 2, 2, 1))
    logits[:, 0, 0] = np.nan
    save(effects(logits, ["correct"], ["correct"]), tmp_path / "m" / "d" / "sip" / "cross_attention-heads.nc")
    with pytest.raises(ResultsError, match="m: no sample has a finite effect of every head"):
        find(tmp_path, FAST)


@pytest.mark.parametrize(("tasks", "at_least"), [(1, 0), (2, 1)])
def test_at_most_5_percent_of_studies_without_an_effect_name_a_head(tasks, at_least):
    runs = 400
    named = dict.fromkeys(("universal", "notice_universal", "passes the test", "without correction"), 0)
    for seed in range(runs):
        null = noise_study(np.random.default_rng([7, seed]), samples=16, layers=4, heads=6, tasks=tasks)
        found = judge(null, replace(FAST, seed=seed, flips=5000, at_least=at_least))
        named["universal"] += bool(found["universal"].any())
        named["notice_universal"] += bool(found["notice_universal"].any())
        named["passes the test"] += bool((found["universal_q"] <= 0.05).any())
        named["without correction"] += bool((found["universal_p"] <= 0.05).any())
    assert named["universal"] <= 0.05 * runs
    assert 0.02 * runs < named["passes the test"] < (0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)) * runs  # it could have named heads
    assert min(named["notice_universal"], named["without correction"]) > 0.6 * runs


def test_skewed_noise_names_no_head_in_every_task_of_three_but_one_task_is_not_enough():
    runs = 100
    named = {0: 0, 1: 0}
    for seed in range(runs):
        null = skewed_study(np.random.default_rng([8, seed]), samples=50, layers=4, heads=6, tasks=3)
        for at_least in named:
            named[at_least] += bool(judge(null, replace(FAST, seed=seed, test="t", at_least=at_least))["universal"].any())
    assert named[0] <= 0.05 * runs
    assert named[1] > 0.1 * runs  # what the command warns of


def test_power_against_the_noncentral_t(generator):
    # one head with an effect among 20 of independent normal noise: its q is <= alpha about when its p is <= alpha / 20
    effects_ = study({("sip", "d/a"): generator.normal(size=(5000, 4, 5))})
    sizes, samples = (0.0, 0.6, 0.9), (30,)
    rows = power(effects_, replace(FAST, deviations=0), sizes, samples, runs=120)
    for size in sizes[1:]:
        for n in samples:
            limit = stats.t.isf(0.05 / 20 / 2, n - 1)
            wanted = stats.nct.sf(limit, n - 1, size * np.sqrt(n))
            row = rows[(rows["size"] == size) & (rows["samples"] == n)]
            assert float(row["power"].item()) == pytest.approx(wanted, abs=4 * np.sqrt(0.25 / 120))
    false = rows[rows["size"] == 0]
    assert list(false["noise"]) == ["symmetric", "as measured"]
    assert false["power"].isna().all()
    assert (false["false_runs"] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 120)).all()
    assert (false["notice_false_runs"] > 0.9).all()
    words = power_text(rows)
    assert words.count("no effect, noise as measured") == 2
    assert words.startswith("m, robust rule: share of studies that name a head")


def test_simulated_noise_keeps_what_the_study_has(generator):
    x = noise(generator, 500, spreads(generator, 2, 3)) + 5
    planted = np.array([[False, True, False], [False, False, False]])
    made = simulate(study({("sip", "d/a"): x}), 100_000, planted, 0.5, generator).effects["sip", "d/a"].values
    centred = x - x.mean(axis=0)
    unit = np.sqrt((centred**2).mean())
    np.testing.assert_allclose(made.mean(axis=0), 0.5 * unit * planted, atol=0.03 * unit)
    flat = made.reshape(len(made), -1) - made.mean(axis=0).ravel()
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.cov(centred.reshape(500, -1).T, ddof=0), atol=0.1 * unit**2)
    skewed = np.exp(x - 5)
    kept = simulate(study({("sip", "d/a"): skewed}), 50_000, planted, 0, generator, symmetric=False).effects["sip", "d/a"].values
    lost = simulate(study({("sip", "d/a"): skewed}), 50_000, planted, 0, generator).effects["sip", "d/a"].values
    assert stats.skew(kept[:, 0, 0]) == pytest.approx(stats.skew(skewed[:, 0, 0]), rel=0.15)
    assert abs(stats.skew(lost[:, 0, 0])) < 0.3 * stats.skew(skewed[:, 0, 0])


def test_the_files_hold_what_was_found(results):
    rule = RobustRule(permutations=50, resamples=100)
    written = write(results, rule)
    found, words = written.data, written.words
    for model, dataset in read_tree(results / "robust_heads.nc").items():
        xr.testing.assert_equal(dataset, found[model])
    rows = pd.read_csv(results / "robust_heads.csv")
    assert len(rows) == 2 * 2 * 2 * LAYERS * HEADS
    row = rows[(rows.model == "blip-small") & (rows.corruption == "sip") & (rows.task == "shape") & (rows.name == "L1.H2")].iloc[0]
    assert (row.dataset, row.layer, row["head"], row.significant, row["sign"], row.selection_frequency) == ("shapes", 1, 2, True, 1, 1)
    assert row.notice_selection_frequency == 1
    assert row.low < row.mean_effect < row.high
    assert row.mean_effect == pytest.approx(1, abs=0.1)
    universal = pd.read_csv(results / "robust_universal.csv")
    assert list(universal[universal.model == "blip-small"].name) == ["L1.H2", "L0.H5", "L3.H0"]
    assert list(universal[universal.model == "blip-small"].kind) == ["vision", "text", "multimodal"]
    assert (universal.sip_tasks_important[0], universal.sip_tasks[0], universal.sip_universal_frequency[0]) == (2, 2, 1)
    assert (universal.sip_notice_universal_frequency[0], universal.kind_frequency[0]) == (1, 1)
    assert "share of resamples that give a head its kind: L0.H5 1.00, L1.H2 1.00, L3.H0 1.00" in words
    overlap = pd.read_csv(results / "robust_overlap.csv")
    assert set(overlap.compared) == {"tasks together", "two tasks", "two corruptions", "universal heads"}
    both = overlap[(overlap.model == "blip-small") & (overlap.rule == "robust") & (overlap.compared == "universal heads")].iloc[0]
    assert (both.heads_a, both.heads_b, both.shared) == (2, 2, 1)
    assert both.p == pytest.approx(stats.hypergeom.sf(0, LAYERS * HEADS, 2, 2), rel=1e-5)
    assert "blip-small: vision: L1.H2; text: L0.H5; multimodal: L3.H0" in words
    assert "sip: heads that are important with one sign in at least 2 of 2 tasks: 2; chance gives 0.1" in words
    names = ["robust_heads.nc", "robust_heads.csv", "robust_universal.csv", "robust_overlap.csv"]
    before = [(results / name).read_bytes() for name in names]
    write(results, rule)
    assert [(results / name).read_bytes() for name in names] == before


def test_another_data_set_leaves_the_numbers_of_the_first(tmp_path, generator):
    rule = RobustRule(permutations=0, resamples=50, flips=500)
    for name in ("b", "a"):
        data = effects(generator.normal(size=(20, 3, 4, 1)), ["correct"], ["correct"], dataset=name)
        save(data, tmp_path / "m" / name / "sip" / "cross_attention-heads.nc")
        found = find(tmp_path, rule)["m"].sel(corruption="sip", task="b/colour")
        kept = [found[name].values for name in ("p", "low", "selection_frequency")]
        if name == "b":
            alone = kept
    np.testing.assert_array_equal(kept, alone)


def test_too_few_samples_are_told(tmp_path):
    save(effects(np.ones((10, 4, 6, 1)), ["correct"], ["correct"]), tmp_path / "m" / "d" / "sip" / "cross_attention-heads.nc")
    words = write(tmp_path, FAST).words
    assert "sip, d/colour: too few samples (5) or flips for one head alone to be significant among 24" in words


def test_one_task_that_is_enough_is_warned_of(generator):
    tasks = {("sip", f"d/{name}"): generator.normal(0, 0.1, size=(40, 3, 4)) for name in "ab"}
    warning = "warning: under sip one task is enough to name a head, which leans on noise that is symmetric"

    def said(of: dict[tuple[str, str], np.ndarray], at_least: int) -> str:
        found = {"m": judge(study(of), replace(FAST, at_least=at_least))}
        return summary(found, overlap_table(found))

    assert warning in said(tasks, at_least=1)
    assert warning in said({key: x for key, x in tasks.items() if key[1] == "d/a"}, at_least=0)
    assert "warning" not in said(tasks, at_least=0)


def test_one_modality_alone_leaves_kinds_open(generator):
    x = generator.normal(0, 0.1, size=(40, 3, 4))
    x[:, 1, 1] += 1
    for corruptions, wanted in (
        (("sip",), "no text corruption was run, so a head named vision may be multimodal"),
        (("str",), "no image corruption was run, so a head named text may be multimodal"),
    ):
        found = {"m": judge(study({(c, "d/a"): x for c in corruptions}), FAST)}
        assert summary(found, overlap_table(found)).count(wanted) == 1
    both = {"m": judge(study({(c, "d/a"): x for c in ("sip", "str")}), FAST)}
    assert "may be multimodal" not in summary(both, overlap_table(both))


def test_the_frequency_of_a_heads_kind_counts_none_too(generator):
    tasks = {(c, "d/a"): noise(generator, 20, spreads(generator, 2, 5)) for c in ("sip", "str")}
    found = judge(study(tasks), replace(FAST, resamples=200, deviations=0, alpha=0.9))
    rows = universal_table({"m": found}).set_index("name")
    for name, row in rows.iterrows():
        of = found["kind_frequency"].sel(layer=int(name[1]), head=int(name[4:]))
        wanted = 1 - float(of.sum()) if row["kind"] == "none" else float(of.sel(named=row["kind"]))
        assert row["kind_frequency"] == pytest.approx(wanted)
    assert "none" in set(rows["kind"])


def test_tasks_that_did_not_run_under_a_corruption(tmp_path, generator):
    for corruption, categories in (("sip", ("colour", "shape")), ("str", ("shape",))):
        logits = generator.normal(0, 0.1, size=(SAMPLES, 3, 4, 1))
        logits[:, 1, 1] += 1
        data = effects(logits, ["correct"], ["correct"], categories, corruption=corruption)
        save(data, tmp_path / "m" / "d" / corruption / "cross_attention-heads.nc")
    found = write(tmp_path, RobustRule(permutations=20, resamples=20)).data
    assert found["m"]["kind"].values[1, 1] == "multimodal"
    assert np.isnan(found["m"]["p"].sel(corruption="str", task="d/colour").values).all()
    assert not found["m"]["important"].sel(corruption="str", task="d/colour").any()
    rows = pd.read_csv(tmp_path / "robust_heads.csv")
    assert set(zip(rows.corruption, rows.task, strict=True)) == {("sip", "colour"), ("sip", "shape"), ("str", "shape")}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"test": "z"}, "there is no test 'z'; choose one of flips, t"),
        ({"alpha": 5.0}, r"alpha is 5.0; it must lie between 0 and 1"),
        ({"resamples": -1}, "resamples is -1; it cannot be negative"),
        ({"seed": -1}, "seed is -1; it cannot be negative"),
        ({"deviations": float("nan")}, "deviations is nan; it must be a finite number"),
        ({"at_least": 3}, "blip-small has 2 tasks under sip, fewer than --at-least 3"),
    ],
)
def test_bad_options_are_named(results, rule, message):
    with pytest.raises(ResultsError, match=message):
        find(results, RobustRule(**rule))


def test_no_simulated_study_is_named():
    with pytest.raises(ResultsError, match="runs is 0; at least one is needed"):
        RobustHeads(runs=0)


def test_the_script_runs_from_any_folder_and_says_what_is_wrong(results, tmp_path):
    script = [sys.executable, str(ROOT / "analysis" / "robust_heads.py")]
    fast = ["--permutations", "10", "--resamples", "10", "--power", "--runs", "1"]
    done = subprocess.run([*script, "--results", str(results), *fast], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "blip-small: vision: L1.H2; text: L0.H5; multimodal: L3.H0" in done.stdout
    assert "llava-small, NOTICE's rule: share of studies" in done.stdout
    assert len(pd.read_csv(results / "robust_power.csv")) == 2 * (7 + 1) * 5
    failed = subprocess.run([*script, "--results", "nowhere"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("robust_heads: no results folder at")
    assert "Traceback" not in failed.stderr


def test_what_the_report_says(results):
    assert report_robust.content(results.parent) == []
    write(results, RobustRule(permutations=50, resamples=100))
    (blip, llava) = report_robust.content(results)
    assert (blip["model"], blip["units"], blip["corruptions"]) == ("blip-small", "logits", ["sip (image)", "str (text)"])
    assert [(row["name"], row["kind"], row["notice_kind"]) for row in llava["rows"]] == [
        ("L1.H2", "vision", "vision"),
        ("L0.H5", "text", "text"),
        ("L3.H0", "multimodal", "multimodal"),
    ]
    image, text = blip["rows"][0]["under"]
    assert (image["tasks"], image["frequency"], text["tasks"], text["frequency"]) == ("2 of 2", "1.00", "0 of 2", "0.00")
    low, high = (float(end) for end in image["interval"].split(" to "))
    assert low < float(image["effect"]) < high
    assert [row["compared"] for row in blip["overlap"] if row["rule"] == "robust"] == [
        "important in at least 2 tasks under sip, with the same sign",
        "important in at least 2 tasks under str, with the same sign",
        "universal under sip and str, with the same sign",
    ]
