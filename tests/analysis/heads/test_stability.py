"""Stability against plain loops over subsamples, studies where it is known, and the files."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from analysis.heads.options import Subsampling
from analysis.heads.subsampling import sizes, stability
from analysis.stability import find, write
from analysis.store.errors import NothingToAnalyse, ResultsError
from analysis.store.folder import read_tree
from tests.support.synthetic_noise import study
from tests.support.synthetic_results import effects, save, write_results

KEY = ["model", "rule", "corruption", "task", "samples"]


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_sizes_double_up_to_half():
    assert sizes(100) == [5, 10, 20, 40, 50]
    assert sizes(80) == [5, 10, 20, 40]
    assert (sizes(11), sizes(9), sizes(2), sizes(1)) == ([5], [4], [1], [])


def named(x: np.ndarray, rule: str) -> tuple[np.ndarray, set[tuple[int, int]]]:
    """Scores of heads [head], and the heads that a rule names, with their signs."""
    mean = x.mean(axis=0)
    score = np.abs(x).mean(axis=0) if rule == "notice" else mean
    large = np.abs(score) >= np.abs(score).mean() + np.abs(score).std()
    if rule == "notice":
        return score, {(i, 1) for i in np.flatnonzero(large)}
    q = stats.false_discovery_control(stats.ttest_1samp(x, 0).pvalue)
    return score, {(i, int(np.sign(mean[i]))) for i in np.flatnonzero(large & (q <= 0.05))}


@pytest.mark.parametrize("rule", ["notice", "robust"])
def test_a_task_against_a_loop_over_subsamples(generator, rule):
    x = generator.normal(np.array([0.7, -0.7, 0.3, 0, 0, 0, 0, 0]), 1 + np.arange(8) / 4, size=(40, 8))
    rows = stability(study({("sip", "d/a"): x.reshape(40, 2, 4)}), Subsampling(deviations=1.0, repeats=600))
    for n in (10, 20):
        correlations, shared = [], []
        for _ in range(600):
            order = generator.permutation(40)
            (score, here), (other_score, there) = (named(x[part], rule) for part in (order[:n], order[n:]))
            correlations.append(stats.spearmanr(score, other_score).statistic)
            shared.append(len(here & there) / len(here | there) if here | there else np.nan)
        row = rows[(rows["rule"] == rule) & (rows["samples"] == n)].iloc[0]
        assert row["rest"] == 40 - n
        assert row["rank_correlation"] == pytest.approx(np.mean(correlations), abs=0.03)
        assert row["rank_correlation_low"] == pytest.approx(np.quantile(correlations, 0.05), abs=0.1)
        assert row["jaccard"] == pytest.approx(np.nanmean(shared), abs=0.04)
        assert row["none_named"] == pytest.approx(np.isnan(shared).mean(), abs=0.05)


def test_heads_that_differ_alike_in_every_sample_are_perfectly_stable(generator):
    x = np.tile(np.arange(1.0, 21) ** 3, (12, 1)) * generator.uniform(1, 1.01, size=(12, 1))
    rows = stability(study({("sip", "d/a"): x.reshape(12, 4, 5)}), Subsampling(repeats=20))
    assert (rows[["rank_correlation", "rank_correlation_low", "jaccard"]] == 1).all().all()


def test_noise_has_no_order_by_mean_effect(generator):
    rows = stability(study({("sip", "d/a"): generator.normal(size=(200, 10, 20))}), Subsampling(repeats=40))
    robust = rows[rows["rule"] == "robust"]
    # a subsample and the rest of a fixed set of samples are weakly dependent
    assert robust["rank_correlation"].abs().max() < 0.2
    assert robust["none_named"].min() > 0.5


def test_where_all_heads_are_alike_there_is_no_order_and_no_name():
    rows = stability(study({("sip", "d/a"): np.zeros((10, 2, 3))}), Subsampling(repeats=3))
    assert rows[["rank_correlation", "jaccard"]].isna().all().all()
    assert (rows["none_named"] == 1).all()


def test_the_files_hold_what_was_found(tmp_path):
    write_results(tmp_path)
    written = write(tmp_path, Subsampling(repeats=10))
    rows = pd.read_csv(tmp_path / "stability.csv")
    tree = read_tree(tmp_path / "stability.nc")
    xr.testing.assert_equal(tree["blip-small"], written.data["blip-small"])
    xr.testing.assert_identical(find(tmp_path, Subsampling(repeats=10))["llava-small"], written.data["llava-small"])
    frame = pd.concat(of_model.to_dataframe().assign(model=model).reset_index() for model, of_model in tree.items())
    frame = frame[rows.columns].sort_values(KEY, ignore_index=True)
    pd.testing.assert_frame_equal(rows.sort_values(KEY, ignore_index=True), frame, rtol=1e-5, check_dtype=False)
    cell = tree["blip-small"].sel(rule="robust", corruption="str", task="shapes/shape", samples=6)
    row = rows.set_index(["model", "rule", "corruption", "task", "samples"]).loc["blip-small", "robust", "str", "shapes/shape", 6]
    assert float(cell["rank_correlation"]) == pytest.approx(row["rank_correlation"], rel=1e-5)
    assert "llava-small, means over tasks" in written.words
    before = (tmp_path / "stability.csv").read_bytes()
    write(tmp_path, Subsampling(repeats=10))
    assert (tmp_path / "stability.csv").read_bytes() == before


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ResultsError, match="repeats is 0; at least one is needed"):
        Subsampling(repeats=0)
    with pytest.raises(ResultsError, match=r"alpha is 3.0; it must lie between 0 and 1"):
        Subsampling(alpha=3.0)
    with pytest.raises(ResultsError, match=r"deviations is inf; it must be a finite number"):
        Subsampling(deviations=float("inf"))
    save(effects(np.ones((2, 2, 2, 1)), ["correct"], ["correct"]), tmp_path / "m" / "d" / "sip" / "cross_attention-heads.nc")
    with pytest.raises(NothingToAnalyse, match="has one sample, which cannot be taken apart"):
        write(tmp_path)
