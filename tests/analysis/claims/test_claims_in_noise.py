"""Where nothing is so, at most about a twentieth of studies say that a claim about maxima or universal heads holds, or does not."""

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from analysis import robust_heads
from analysis.claims.folder import Folder
from analysis.claims.halves import at_largest, largest_less
from analysis.claims.outcome import FAILS, HOLDS, UNDECIDED, Undecidable, beyond
from analysis.claims.subject import Subject
from analysis.claims.table import CLAIMS
from analysis.claims.universal import possible_kinds
from analysis.corruptions.options import Comparing
from analysis.heads.head_effects import HeadEffects
from analysis.heads.options import RobustRule
from analysis.paper_claims import PaperClaims, find
from tests.support.claims_folders import BLIP, LAYERS, LLAVA, heads, noise_of_heads, noise_of_knockout, noise_of_module

RUNS, MOST = 20, 2  # more than 2 of 20 err in 1 of 75 where 1 in 40 does
QUICK, COMPARING = PaperClaims(resamples=200), Comparing(resamples=200)
KINDS = ("vision", "text", "multimodal")
OF = {claim.id: claim for claim in CLAIMS}
LOUD, QUIET = 1.0, 0.05
Noise = Callable[[object, int, float, float], object]  # folder, seed, spread of what a claim is about, spread of the others


def module_at(model: str, component: str, place: int) -> Noise:
    def write(folder, seed, own, others):
        spread = [own if role == place else others for role in range(5)]
        noise_of_module(folder, model, "sip", component, spread, seed)

    return write


def windows(model: str, corruption: str, dataset: str, share: float = 0) -> Noise:
    """In logits, or in `share` of P(answer): what is symmetric in the one is not in the other."""

    def write(folder, seed, own, others):
        own, others, more = own * (share or 1), others * (share or 1), {"dataset": dataset, "share": share > 0}
        noise_of_module(folder, model, corruption, "mlp", [others] * 5, seed, **more)
        noise_of_module(folder, model, corruption, "mlp-window3", [own] * 5, seed + 1000, window=3, **more)

    return write


def edges(own_edges: tuple[str, ...], other_edges: tuple[str, ...]) -> Noise:
    """The spreads, a tenth of them in the first two layers, of which P(answer) can bear but a share."""

    def write(folder, seed, own, others):
        late = np.array([0.1] * 2 + [1.0] * (LAYERS - 2)) / 4
        spread = {edge: list(own * late) for edge in own_edges} | {edge: list(others * late[::-1]) for edge in other_edges}
        noise_of_knockout(folder, spread, seed)

    return write


MAXIMA: dict[str, Noise] = {
    "notice-last-token": lambda f, seed, own, others: noise_of_heads(f, LLAVA, "sip", {"last": own, "correct": others}, seed),
    "notice-blip-token": module_at(BLIP, "cross_attention", 2),
    "notice-llava-token": module_at(LLAVA, "self_attention", 4),
    "basu-window": windows(LLAVA, "constraint", "coco_qa", share=0.25),
    "best-practices-window": windows(BLIP, "sip", "svo_probes"),
    "zhang-indirectly": edges(("image:question", "question:last"), ("image:last",)),
    "zhang-two-stages": edges(("object:question",), ("background:question",)),
    "zhang-higher-layers": edges(("question:last",), ("image:question",)),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_noise_of_unequal_spread_decides_no_claim_about_maxima(name, tmp_path):
    results = []
    for run in range(RUNS):
        for own, others in ((LOUD, QUIET), (QUIET, LOUD)):
            MAXIMA[name](tmp_path, run, own, others)
            results += list(find(tmp_path, QUICK, [OF[name]])["result"])
    assert len(results) == 2 * RUNS
    assert results.count(HOLDS) <= MOST
    assert results.count(FAILS) <= MOST


def subject(tmp_path, model="m") -> Subject:
    return Subject(Folder(tmp_path, COMPARING), model, "d")


def test_equal_maxima_are_not_told_apart_by_how_noisy_they_are(tmp_path):
    loud, quiet = np.zeros(40), np.zeros(40)
    loud[0] = quiet[0] = 0.5  # 3 standard errors of the loud: half of the halves choose another of its cells
    results = []
    for run in range(60):
        generator = np.random.default_rng(run)
        cells = [generator.normal(mean, spread, (36, 40)) for mean, spread in ((quiet, QUIET), (loud, LOUD))]
        results.append(beyond(largest_less(subject(tmp_path), "x", *cells, str(run))))
    assert results.count(HOLDS) + results.count(FAILS) <= 5


def test_maxima_that_differ_are_told_apart(tmp_path):
    generator = np.random.default_rng(0)
    cells, others = (generator.normal(0, 1, (100, 30)) for _ in range(2))
    cells[:, 7] += 2
    found = largest_less(subject(tmp_path), "x", cells, others, "x")
    assert 0 < found.low < 2 < found.high
    assert largest_less(subject(tmp_path), "x", others, cells, "x").high < 0
    alone = largest_less(subject(tmp_path), "x", cells, None, "x")
    assert alone.low < cells[:, 7].mean() < alone.high
    more, best = at_largest(subject(tmp_path), ("more", "best"), -cells, 0.5 - cells, "x")
    assert more.value == pytest.approx(cells[:, 7].mean() - 0.5)  # with the sign that makes the best positive
    assert best.value == pytest.approx(cells[:, 7].mean())


def test_cells_without_values_are_left_out_and_too_few_samples_said(tmp_path):
    cells = np.random.default_rng(0).normal(5, 0.1, (20, 3))
    cells[1:, 0] = np.nan
    cells[0, 0] = 100
    assert largest_less(subject(tmp_path), "x", cells, None, "x").high < 6
    with pytest.raises(Undecidable, match="x cannot be computed"):
        largest_less(subject(tmp_path), "x", cells[:, :1], None, "x")
    with pytest.raises(Undecidable, match="3 sample"):
        largest_less(subject(tmp_path), "x", cells[:3], None, "x")


def test_heads_that_are_only_noisier_are_no_universal_heads(tmp_path):
    results = []
    for run in range(10):
        for corruption in ("sip", "str"):
            spread = np.full((LAYERS, 4, 1), QUIET)
            spread[[2, 3], [1, 2]] = LOUD
            spread[1, 3] = LOUD if corruption == "sip" else QUIET
            spread[4, 0] = LOUD if corruption == "str" else QUIET
            heads(tmp_path, BLIP, corruption, np.random.default_rng([run, corruption == "sip"]).normal(0, spread, (24, LAYERS, 4, 1)))
        robust_heads.write(tmp_path, RobustRule(test="t", resamples=0))
        rows = find(tmp_path, QUICK, [OF[f"notice-universal-{kind}"] for kind in KINDS])
        assert rows["value"].sum() >= 1  # NOTICE's rule names them
        results.append(HOLDS in set(rows["result"]))
    assert sum(results) <= 1


def study(run: int, samples: int, image: np.ndarray, text: np.ndarray, noise: float, tasks: int = 3) -> HeadEffects:
    """Effects of heads [layer, head] in noise, the same in every task."""
    generator = np.random.default_rng(run)
    effects = {
        (corruption, f"d/{task}"): xr.DataArray(
            mean + generator.normal(0, noise, (samples, *mean.shape)), dims=("sample", "layer", "head"), coords={"layer": range(len(mean))}
        )
        for corruption, mean in (("sip", image), ("str", text))
        for task in range(tasks)
    }
    return HeadEffects("m", "cross_attention", "correct", {"sip": "image", "str": "text"}, effects, dict.fromkeys(effects, 0))


def universal(folder, effects: HeadEffects) -> dict[str, str]:
    """The results of `notice-universal-...` where no effect is beyond chance by the signed rule."""
    shape = next(iter(effects.effects.values())).shape[1:]
    of_model = xr.Dataset(
        {"universal_q": (("corruption", "layer", "head"), np.ones((2, *shape)))}, {"corruption": ["sip", "str"], "layer": range(shape[0])}
    )
    kept = {"heads": {"m": effects}, ("complete heads", "m"): effects, "robust_heads.nc": {"m": of_model}}
    subject = Subject(Folder(folder, COMPARING, kept), "m")
    return {kind: OF[f"notice-universal-{kind}"].judge(subject).result for kind in KINDS}


def test_a_universal_head_that_few_samples_do_not_show_is_not_said_to_be_absent(tmp_path):
    none, one = np.zeros((2, 8, 12))
    one[3, 4] = 0.5  # in noise of 1: its mean |effect| is 0.1 above the mean, and 2 SD over heads are 0.02
    results = []
    for run in range(30):
        found = universal(tmp_path, study(run, 12, one, none, noise=1.0))
        assert found["vision"] != HOLDS
        results.append(found["vision"])
    assert results.count(FAILS) <= 1
    assert results.count(UNDECIDED) >= 29


def test_heads_that_many_samples_show_to_be_no_universal_heads_are_said_to_be_absent(tmp_path):
    spread = np.random.default_rng(0).permutation(np.linspace(0, 1, 96)).reshape(8, 12)  # the largest is 1.7 SD above the mean
    assert set(universal(tmp_path, study(0, 400, spread, spread, noise=0.2)).values()) == {FAILS}
    assert set(universal(tmp_path, study(0, 6, spread, spread, noise=2.0)).values()) == {UNDECIDED}


def test_a_head_of_both_modalities_is_clearly_no_vision_head(tmp_path):
    one = np.zeros((8, 12))
    one[3, 4] = 1
    may = possible_kinds(subject(tmp_path), study(0, 100, one, one, noise=0.2))
    assert {kind: np.argwhere(of_kind).tolist() for kind, of_kind in may.items()} == {"vision": [], "text": [], "multimodal": [[3, 4]]}
