"""Each claim of the papers can hold, not hold, be undecided and be not run; and what is written says so."""

import doctest
import importlib
import os
import shlex
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tyro
import xarray as xr

from analysis.claims import halves as halves_module
from analysis.claims import layers as layers_module
from analysis.claims import outcome as outcome_module
from analysis.claims import universal as universal_module
from analysis.claims.folder import Folder
from analysis.claims.outcome import FAILS, HOLDS, NOT_RUN, UNDECIDED, Estimate, Undecidable, beyond, estimate, every, some
from analysis.claims.subject import RESULTS_FOLDER, Subject
from analysis.claims.table import CLAIMS
from analysis.claims.universal import effects_of_heads, universal_kinds
from analysis.corruptions.options import Comparing
from analysis.paper_claims import OTHER_DATA, OTHER_MODEL, REPLICATION, PaperClaims, find, write
from analysis.products import is_stale
from analysis.store.folder import ResultsError, read_tree, write_tree
from analysis.universal_heads import UniversalHeads
from analysis.universal_heads import find as find_universal
from interventions.methods.script import parse
from tests.support.claims_folders import (
    BLIP,
    BLIP_HEADS,
    EARLY,
    EVEN,
    LLAVA,
    ablation,
    functions,
    knockout,
    marker,
    module,
    planted_heads,
    with_universal,
)
from tests.support.claims_outcomes import outcomes
from tests.support.synthetic_results import write_results

QUICK, COMPARING = PaperClaims(resamples=100), Comparing(resamples=100)
OF = {claim.id: claim for claim in CLAIMS}
OUTCOMES = {name: (holds, fails) for name, holds, fails in outcomes()}


def outcome(folder, name: str) -> pd.Series:
    """The row of one claim, in a folder of one model and data set."""
    (row,) = (row for _, row in find(folder, QUICK, [OF[name]]).iterrows())
    return row


def test_every_claim_is_tested_both_ways():
    assert list(OUTCOMES) == list(dict.fromkeys(OUTCOMES))
    assert set(OUTCOMES) == set(OF)
    assert len(OF) == len(CLAIMS)


@pytest.mark.parametrize("name", OF)
def test_a_claim_holds_where_it_is_planted_and_does_not_where_its_opposite_is(name, tmp_path):
    for result, plant in zip((HOLDS, FAILS), OUTCOMES[name], strict=True):
        folder = tmp_path / result
        folder.mkdir()
        plant(folder)
        row = outcome(folder, name)
        assert row["result"] == result, (row["figure"], row["note"])
        assert row["low"] <= row["value"] <= row["high"]
        assert all((folder / file).is_file() for file in row["files"].split())
        assert row["files"]
        assert row["command"] == ""


def test_without_files_every_claim_is_not_run_with_a_command_that_parses(tmp_path, monkeypatch):
    rows = find(tmp_path, QUICK)
    assert list(rows["id"]) == list(OF)
    assert set(rows["result"]) == {NOT_RUN}
    assert set(rows["setting"]) <= {REPLICATION, OTHER_DATA}
    assert rows["value"].isna().all()
    for model in (BLIP, LLAVA):
        marker(tmp_path, model, "shapes")
    more = find(tmp_path, QUICK)
    for command in dict.fromkeys([*rows["command"], *more["command"][more["command"] != ""]]):
        for part in command.split(" && "):
            parses(part, monkeypatch)


def parses(command: str, monkeypatch) -> None:
    """The command's script takes its options."""
    words = shlex.split(command)
    assert words[0] == "python"
    script, options = (words[2], words[3:]) if words[1] == "-m" else (words[1].removesuffix(".py"), words[2:])
    found = importlib.import_module(script)
    if script.startswith("analysis."):
        assert options[0] == "--results"
        assert callable(found.main)
        return
    of_script = getattr(found, "".join(word.capitalize() for word in script.split(".")[-1].split("_")))
    read = tyro.cli(of_script, args=options) if script == "run_all" else parse(of_script, options)[0]
    assert str(read.out) == RESULTS_FOLDER


def test_samples_that_do_not_tell_leave_a_claim_undecided(tmp_path):
    generator = np.random.default_rng(0)
    drops = {edge: list(generator.normal(0, 1e-9, 6)) for edge in ("background:question", "object:question")}
    knockout(tmp_path, drops)
    path = tmp_path / LLAVA / "gqa" / "attention_knockout.nc"
    with xr.open_dataset(path) as found:
        noisy = found.load()
    noisy["logit_correct"] = noisy["logit_correct"] + generator.normal(0, 0.05, noisy["logit_correct"].shape)
    noisy.to_netcdf(path)
    assert outcome(tmp_path, "zhang-lower-layers")["result"] == UNDECIDED
    assert outcome(tmp_path, "zhang-higher-layers")["result"] == NOT_RUN  # its edges were not blocked
    assert "--edges question:last image:question --overwrite" in outcome(tmp_path, "zhang-higher-layers")["command"]


def test_what_a_folder_cannot_decide_is_undecided_with_the_reason(tmp_path):
    functions(tmp_path, BLIP, lambda *_: "undecidable", {(2, 1): "vision"}, shape=(6, 4))
    assert outcome(tmp_path, "notice-blip-object-detection")["result"] == UNDECIDED
    functions(tmp_path, BLIP, lambda *_: "faint", {(2, 1): "vision"}, shape=(6, 4))
    assert outcome(tmp_path, "notice-blip-outlier-suppression")["result"] == UNDECIDED
    small = outcome(tmp_path, "notice-blip-L5.H3-function")
    assert (small["result"], small["note"]) == (NOT_RUN, "head_functions.nc has no task of svo_probes, mit_states, fer2013")
    module(tmp_path, BLIP, "gaussian_noise", "block", [1, 2])
    row = outcome(tmp_path, "palit-late-states")
    assert (row["result"], row["note"]) == (UNDECIDED, "2 layers cannot be cut into thirds")
    module(tmp_path, BLIP, "gaussian_noise", "block", [0] * 6, noise=0)
    assert outcome(tmp_path, "palit-late-states")["note"] == "no effect at all"
    planted_heads(tmp_path, BLIP, {"multimodal": [(1, 1)]}, shape=(4, 6))
    assert outcome(tmp_path, "notice-blip-vision")["note"] == "it has 4 x 6 heads, so some of those named are not in it"
    assert outcome(tmp_path, "notice-vision-heads-middle")["note"] == "no head is a vision head here"


def test_heads_judged_by_another_rule_do_not_decide(tmp_path):
    with_universal(tmp_path, BLIP, BLIP_HEADS)
    functions(tmp_path, BLIP, lambda *_: "object_detection", {(5, 3): "vision"})
    for name, file in (("notice-universal-vision", "robust_heads"), ("notice-blip-object-detection", "universal_heads")):
        assert outcome(tmp_path, name)["result"] == HOLDS
        judged = read_tree(tmp_path / f"{file}.nc")[BLIP].assign_attrs(at_least=2, metric="log_odds")
        write_tree({BLIP: judged}, tmp_path / f"{file}.nc")
        row = outcome(tmp_path, name)
        assert (row["result"], row["command"]) == (NOT_RUN, f"python -m analysis.{file} --results RESULTS")
        assert row["note"] == f"{file}.nc was made by another rule than NOTICE's (metric log_odds, at_least 2)"


def test_a_stale_file_of_an_analysis_does_not_decide(tmp_path):
    with_universal(tmp_path, BLIP, BLIP_HEADS)
    functions(tmp_path, BLIP, lambda *_: "object_detection", {(5, 3): "vision"})
    of = {"notice-universal-vision": "robust_heads", "notice-consistent": "robust_heads", "notice-blip-object-detection": "head_functions"}
    assert {outcome(tmp_path, name)["result"] for name in of} == {HOLDS}
    planted_heads(tmp_path, BLIP, BLIP_HEADS)  # again
    for name, file in of.items():
        row = outcome(tmp_path, name)
        assert (row["result"], row["note"]) == (NOT_RUN, f"{file}.nc is older than what it is made of")
        assert row["command"].split(" && ")[-1] == f"python -m analysis.{file} --results RESULTS"
    (tmp_path / "robust_heads.nc").touch()
    assert outcome(tmp_path, "notice-universal-vision")["result"] == HOLDS


def test_only_what_an_analysis_is_made_of_makes_it_stale(tmp_path):
    write_results(tmp_path, models=["blip-small"])
    made = {
        name: tmp_path / name
        for name in ("universal_heads.nc", "head_functions.nc", "modules.nc", "compare_corruptions.nc", "paper_claims.csv")
    }
    for path in made.values():
        path.touch()
    of_model = tmp_path / "blip-small" / "shapes"
    for newer, stale in (
        (
            of_model / "sip" / "cross_attention-heads.nc",
            {"universal_heads.nc", "head_functions.nc", "compare_corruptions.nc", "paper_claims.csv"},
        ),
        (of_model / "sip" / "mlp.nc", {"modules.nc", "compare_corruptions.nc", "paper_claims.csv"}),
        (of_model / "attention.nc", {"head_functions.nc", "paper_claims.csv"}),
    ):
        assert not any(is_stale(path, tmp_path) for path in made.values())
        now = made["paper_claims.csv"].stat().st_mtime
        os.utime(newer, (now + 5, now + 5))
        assert {name for name, path in made.items() if is_stale(path, tmp_path)} == stale | {"paper_claims.csv"}
        os.utime(newer, (now - 5, now - 5))
    assert not is_stale(tmp_path / "none.nc", tmp_path)


def test_a_head_that_is_universal_in_half_of_the_resamples_is_undecided(tmp_path):
    planted_heads(tmp_path, BLIP, BLIP_HEADS)
    path = tmp_path / BLIP / "svo_probes" / "sip" / "cross_attention-heads.nc"
    with xr.open_dataset(path) as found:
        changed = found.load()
    of_tasks = np.tile([0.0, 0.0, 0.46, 0.46], 4)  # about the threshold on average, in both tasks
    changed["logit_correct"][{"layer": 5, "head": 3}] = (changed["corrupt_logit_correct"].values + of_tasks)[:, None]
    changed.to_netcdf(path)
    subject = Subject(Folder(tmp_path, COMPARING), BLIP)
    kinds = universal_kinds(subject, effects_of_heads(subject))["vision"][:, 5, 3]
    row = outcome(tmp_path, "notice-blip-vision")
    assert 0.025 < kinds[1:].mean() < 0.975
    assert row["result"] == UNDECIDED


def test_universal_heads_of_the_samples_as_they_are_are_those_of_the_rule(tmp_path):
    write_results(tmp_path)
    judged = find_universal(tmp_path, UniversalHeads(permutations=0))
    for model in ("blip-small", "llava-small"):
        subject = Subject(Folder(tmp_path, COMPARING), model)
        kinds = universal_kinds(subject, effects_of_heads(subject))
        for kind, heads in kinds.items():
            np.testing.assert_array_equal(heads[0], judged[model]["kind"].values == kind)


def test_where_nothing_is_so_claims_of_two_comparisons_seldom_hold(tmp_path):
    subject = Subject(Folder(tmp_path, Comparing(resamples=300)), "m", "d")
    results = []
    for seed in range(200):
        differences = np.random.default_rng(seed).normal(size=(40, 2))
        means = subject.means(differences, str(seed))
        results.append(every(beyond(subject.estimate("x", means[:, number])) for number in range(2)))
    assert results.count(HOLDS) <= 3  # at most 2.5 % x 2.5 % where the two are independent
    assert results.count(FAILS) <= 22  # about 2 x 3 %


def test_resampled_means_are_of_the_samples_that_have_a_value(tmp_path):
    values = np.array([[1.0, np.nan], [3.0, 2.0], [8.0, 6.0]])
    subject = Subject(Folder(tmp_path, COMPARING), "m", "d")
    means = subject.means(values, "x")
    np.testing.assert_allclose(means[0], [4, 4])
    assert means.shape == (101, 2)
    with pytest.raises(Undecidable, match="1 sample"):
        subject.means(values[:1], "x")


def test_intervals_decide():
    assert [beyond(Estimate("x", 1, low, high)) for low, high in ((0.1, 2), (-2, -0.1), (-1, 1), (0, 0))] == [
        HOLDS,
        FAILS,
        UNDECIDED,
        UNDECIDED,
    ]
    assert every([HOLDS, HOLDS]) == HOLDS
    assert every([UNDECIDED, FAILS]) == FAILS
    assert [some(of) for of in ([UNDECIDED, HOLDS], [UNDECIDED, FAILS], [FAILS, FAILS])] == [HOLDS, UNDECIDED, FAILS]
    resampled = np.append(5.0, np.arange(101.0))
    found = estimate("x", resampled, 0.9)
    assert (found.value, found.low, found.high) == (5.0, pytest.approx(5), pytest.approx(95))
    with pytest.raises(Undecidable, match="x cannot be computed"):
        estimate("x", np.append(5.0, [np.nan] * 10 + [1.0] * 90), 0.9)


def test_examples_in_the_docstrings():
    for module_ in (outcome_module, halves_module, layers_module, universal_module):
        assert doctest.testmod(module_).failed == 0


def test_the_setting_says_whose_model_and_data_they_are(tmp_path):
    for model, dataset in ((BLIP, "mit_states"), (BLIP, "shapes")):
        module(tmp_path, model, "sip", "cross_attention", EVEN, dataset=dataset)
    module(tmp_path, BLIP, "sip", "cross_attention", EVEN, dataset="mit_states")
    (tmp_path / BLIP).rename(tmp_path / "other")
    for model, dataset in ((BLIP, "mit_states"), (BLIP, "shapes")):
        module(tmp_path, model, "sip", "cross_attention", EVEN, dataset=dataset)
    rows = find(tmp_path, QUICK, [OF["notice-blip-token"]])
    of = {(row.model, row.dataset): row.setting for row in rows.itertuples()}
    assert of == {
        (BLIP, "mit_states"): REPLICATION,
        (BLIP, "shapes"): OTHER_DATA,
        ("other", "mit_states"): OTHER_MODEL,
        ("other", "shapes"): OTHER_MODEL,
    }
    named = find(tmp_path, QUICK, [OF["notice-blip-vision"]])
    assert list(named["model"]) == [BLIP]  # heads named in the paper are looked for in the paper's model alone


def test_commands_carry_the_options_of_the_runs_that_are_there(tmp_path):
    module(tmp_path, BLIP, "sip", "mlp", EVEN)
    path = tmp_path / BLIP / "svo_probes" / "sip" / "mlp.nc"
    with xr.open_dataset(path) as found:
        changed = found.load().assign_attrs(configuration='{"samples": 20, "seed": 3, "dtype": "float32", "keep_wrong": true}')
    changed.to_netcdf(path)
    row = outcome(tmp_path, "palit-late-self-attention")
    assert row["command"] == (
        f"python -m interventions.module_patching --model {BLIP} --data data/svo_probes --out RESULTS "
        "--samples 20 --seed 3 --keep-wrong --corruption gaussian_noise --components self_attention --window 3"
    )


def test_tables_page_and_words(tmp_path):
    with_universal(tmp_path, BLIP, BLIP_HEADS)
    ablation(tmp_path, 1.0)
    written = write(tmp_path, QUICK)
    rows, words = written.data, written.words
    assert written.paths == (tmp_path / "paper_claims.csv", tmp_path / "paper_claims.md")
    table = pd.read_csv(tmp_path / "paper_claims.csv")
    assert list(table.columns) == [
        *("id", "paper", "source", "says", "papers_models", "papers_data", "model", "dataset", "setting"),
        *("test", "result", "figure", "value", "low", "high", "note", "files", "command"),
    ]
    assert len(table) == len(rows)
    assert (rows.loc[rows["result"] == NOT_RUN, "command"].str.startswith("python ")).all()
    assert f"holds         notice-heads-matter, {BLIP}, svo_probes ({REPLICATION}): LD lost beyond random heads" in words
    page = (tmp_path / "paper_claims.md").read_text(encoding="utf-8")
    assert f"| `notice-blip-vision` BLIP's universal vision heads are L5.H3 | {BLIP}, svo_probes ({REPLICATION}) | **holds** |" in page
    assert page.count("\n| `") == len(rows)
    assert all(f"`{name}`" in page.split("## How each is tested")[1] for name in OF)
    cells = [line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("| `")]
    assert set(cells) == {4, 5}


def test_equal_studies_in_other_folders_have_equal_tables(tmp_path):
    for folder in (tmp_path / "one", tmp_path / "other" / "deeper"):
        with_universal(folder, BLIP, BLIP_HEADS)
        ablation(folder, 1.0)
        write(folder, QUICK)
    for name in ("paper_claims.csv", "paper_claims.md"):
        text = (tmp_path / "one" / name).read_text(encoding="utf-8")
        assert text == (tmp_path / "other" / "deeper" / name).read_text(encoding="utf-8")
        assert str(tmp_path) not in text
        assert "--out RESULTS" in text


def test_importing_the_command_loads_no_library():
    heavy = {"numpy", "pandas", "xarray", "scipy", "torch"}
    program = f"import sys, analysis.paper_claims; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(ResultsError, match="no results folder"):
        find(tmp_path / "none", QUICK)
    with pytest.raises(ResultsError, match="resamples is 0"):
        find(tmp_path, PaperClaims(resamples=0))
    module(tmp_path, BLIP, "gaussian_noise", "block", EARLY)
    path = tmp_path / BLIP / "svo_probes" / "gaussian_noise" / "block.nc"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ResultsError, match=r"block\.nc is damaged"):
        find(tmp_path, QUICK)
