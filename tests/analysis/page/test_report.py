"""The report of a results folder written by hand: what is said, what is said to be missing, and that nothing outside the page is needed."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from analysis import head_functions, report, robust_heads, stability, universal_heads
from analysis.heads.options import RobustRule
from analysis.page import csv as report_csv
from analysis.page import whole
from analysis.page.tables import left_out, number, runs
from analysis.store.folder import ResultsError
from tests.support.synthetic_results import write_results

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("report"))
    universal_heads.write(folder, universal_heads.UniversalHeads(permutations=50))
    head_functions.write(folder)
    robust_heads.write(folder, RobustRule(permutations=50))
    robust_heads.write_power(folder, robust_heads.RobustHeads(runs=1))
    stability.write(folder, stability.Stability(repeats=5))
    return folder


@pytest.fixture(scope="module")
def page(results) -> str:
    return report.write(results).paths[0].read_text(encoding="utf-8")


def embedded(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.S)[1])


def prose(page: str) -> str:
    """The page without its scripts and styles."""
    return re.sub(r"<(script|style)[^>]*>.*?</\1>", "", page, flags=re.S)


class Wellformed(HTMLParser):
    """Fails on a tag that is closed in the wrong place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: set[str] = set()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        if tag == "a":
            self.links.add(given["href"])
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_whole_and_self_contained(page):
    data = embedded(page)
    parser = Wellformed()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    heads = {f"#{study['id']}/{name}" for study in data["studies"] for name in study["names"]}
    links = {unquote(link) for link in parser.links}
    assert {link for link in links if "/" in link} <= heads
    assert {link.removeprefix("#") for link in links if "/" not in link} <= set(parser.ids)
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", prose(page))
    own = "".join((whole.ASSETS / name).read_text() for name in (*whole.SCRIPTS, "style.css"))
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|@import|url\(", own)
    assert 'name="viewport"' in page


def test_the_report_says_what_was_found(page):
    text = prose(page)
    parts = ("L1.H2", "vision", "L0.H5", "multimodal", "object detection", "85.7", "options of unequal token length", "2 of 2")
    for part in (*parts, "answered &lt;wrongly&gt;", "Attention is not causation", "Heads of blip-small that are universal by either rule"):
        assert part in text, part
    assert not re.search(r"\bnan\b|NaN|\binf\b|<td[^>]*>None<", text)


def test_the_rules_are_said_as_they_were_chosen(results, page, tmp_path):
    rules = ("when it is important in {}.", "with one sign in {}", "stands out as much in {},")
    for rule in rules:
        assert rule.format("every task") in prose(page)
    shutil.copytree(results, tmp_path / "results")
    universal_heads.write(tmp_path / "results", universal_heads.UniversalHeads(at_least=2, permutations=0))
    robust_heads.write(tmp_path / "results", RobustRule(at_least=1, permutations=0, resamples=0))
    text = prose(report.write(tmp_path / "results").paths[0].read_text(encoding="utf-8"))
    for rule, tasks in zip(rules, ("at least 2 tasks", "at least 1 task", "at least 2 tasks"), strict=True):
        assert rule.format(tasks) in text
        assert rule.format("every task") not in text


def test_what_is_of_all_models_has_its_own_heading(page):
    """The last heading before a table of all models is not a model's."""
    for table in (
        *("Heads important in some task by either rule", "Stability of each task as a table", "Power and false alarms as a table"),
        *("Do functions and causal effects agree?", "The function of every head in each task"),
    ):
        before = page[: page.index(f"<summary>{table}")]
        assert re.findall(r"<h3[^>]*>(.*?)</h3>", before)[-1].startswith("All models"), table


def test_curves_are_means_over_tasks_and_those_of_the_power(results, page):
    data = embedded(page)
    rows = pd.read_csv(results / "stability.csv").query("model == 'blip-small' and corruption == 'sip' and rule == 'notice'")
    found = next(one for one in data["stability"] if one["model"] == "blip-small" and one["measure"].startswith("rank correlation"))
    assert found["x"] == sorted(set(rows["samples"]))
    y = next(line["y"] for line in found["lines"] if line["name"] == "sip, NOTICE’s rule")
    np.testing.assert_allclose(y, rows.groupby("samples")["rank_correlation"].mean(), rtol=1e-3)
    rows = pd.read_csv(results / "robust_power.csv").query("model == 'llava-small' and samples == 50 and size > 0")
    robust = next(one for one in data["power"] if one["model"] == "llava-small" and one["rule"] == "robust rule")
    assert robust["x"] == rows["size"].tolist()
    assert next(line["y"] for line in robust["lines"] if line["name"] == "50 samples") == rows["power"].tolist()


def test_a_damaged_table_is_named(tmp_path):
    folder = write_results(tmp_path / "results", models=["blip-small"], corruptions=["str"])
    (folder / "stability.csv").write_text("model,rule\nblip-small,notice\n")
    with pytest.raises(ResultsError, match=r"stability\.csv lacks corruption"):
        report.write(folder).paths[0]


def test_the_report_says_what_was_not_run_and_what_makes_it(tmp_path):
    write_results(tmp_path, models=["llava-small"], corruptions=["str"])
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "llava-small" / "shapes" / "attention.nc").unlink()
    for path in (tmp_path / "llava-small" / "shapes" / "str").glob("*.nc"):
        if not path.name.endswith("-heads.nc"):
            path.unlink()
    unjudged = prose(report.write(tmp_path).paths[0].read_text(encoding="utf-8"))
    assert "universal heads were not looked for" in unjudged
    for module in ("universal_heads", "robust_heads", "head_functions", "compare_corruptions", "stability", "paper_claims", "modules"):
        assert f"python -m analysis.{module}" in unjudged
    universal_heads.write(tmp_path, universal_heads.UniversalHeads(permutations=0))
    text = prose(report.write(tmp_path).paths[0].read_text(encoding="utf-8"))
    assert "no image corruption was run, so a head named text may be multimodal" in text
    assert "whole modules were not patched under the str corruption" in text
    assert "attention maps were not collected" in text
    assert "The manifest records no answers" in text
    assert "the table of the data set shapes is not where the manifest says" in text.lower()
    assert not re.search(r"\bnan\b|NaN", text)


def test_analyses_that_are_older_than_the_effects_are_said_at_the_head_of_the_page(tmp_path):
    write_results(tmp_path, models=["llava-small"], corruptions=["str"])
    universal_heads.write(tmp_path, universal_heads.UniversalHeads(permutations=0))
    head_functions.write(tmp_path)
    assert "Older than the effects" not in report.write(tmp_path).paths[0].read_text(encoding="utf-8")
    (tmp_path / "llava-small" / "shapes" / "attention.nc").touch()
    head = prose(report.write(tmp_path).paths[0].read_text(encoding="utf-8")).split("</header>")[0]
    assert f"Head functions: <code>python -m analysis.head_functions --results {tmp_path}</code>" in head
    assert "analysis.universal_heads" not in head


def test_an_unfinished_run_is_named(tmp_path):
    write_results(tmp_path, models=["blip-small"], corruptions=["str"])
    (tmp_path / "manifest.json").write_text('{"runs": {"blip-small/shapes/sip/cross_attention-heads.nc": {"status": "stopped"}}}')
    (tmp_path / "blip-small" / "shapes" / "sip" / ".mlp.partial").mkdir(parents=True)
    text = prose(report.write(tmp_path).paths[0].read_text(encoding="utf-8"))
    assert "blip-small/shapes/sip/cross_attention-heads.nc: stopped." in text
    assert "stopped (no file)" in text
    assert "blip-small/shapes/sip/mlp.nc: started, not finished." in text


def test_tables_of_other_analyses_are_shown_whatever_their_columns(tmp_path):
    rows = {"model": ["a", "b", "c"], "share": [0.5, 1.25e-5, 3], "share_low": [0.4, 0, 2], "share_high": [0.6, 1e-4, 4.5]}
    rows |= {"ok": [True, False, True], "empty": [None] * 3, "same": ["x"] * 3}
    pd.DataFrame(rows).to_csv(tmp_path / "made.csv", index=False)
    table = report_csv.shown(tmp_path / "made.csv", rows=2)
    assert [column["name"] for column in table["columns"]] == ["model", "share", "ok"]
    assert [[cell["text"] for cell in row] for row in table["rows"]] == [
        ["a", "0.500 [0.400, 0.600]", "yes"],
        ["b", "1.25e−05 [0, 0.000100]", "no"],
    ]
    assert (table["total"], table["same"], table["rows"][0][1]["value"]) == (3, [("same", "x")], 0.5)
    assert report_csv.shown(tmp_path / "none.csv") is None
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00\x01,\x80")
    with pytest.raises(ResultsError, match=r"bad\.csv is not a CSV that can be read"):
        report_csv.shown(tmp_path / "bad.csv")


def test_claims_are_shown_with_their_tests(results, tmp_path):
    claim = {
        "paper": "NOTICE",
        "source": "table 1",
        "says": "heads <i>exist</i>",
        "model": "m",
        "dataset": "",
        "setting": "",
        "test": "counting",
    }
    rows = [claim | {"result": "not run", "note": "no heads", "command": "run it"}, claim | {"result": "holds", "figure": "3 of 4"}]
    path = results / "paper_claims.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    try:
        text = prose(report.write(results).paths[0].read_text(encoding="utf-8"))
    finally:
        path.unlink()
    assert "heads &lt;i&gt;exist&lt;/i&gt;" in text
    assert re.search(r'class="verdict holds">holds<.*?3 of 4.*?1 claims not run.*?no heads', text, re.S)
    shares = {f"{third}{end}": 0.3 for third in report_csv.THIRDS for end in ("", "_low", "_high")} | {"late": 0.4, "late_high": 0.5}
    row = {"model": "m", "dataset": "d", "component": "mlp", "heads": 0, "direction": "denoising", "window": 1, "definition": "ours"}
    pd.DataFrame([row | shares | {"row": "share", "corruption": "sip", "samples": 20}]).to_csv(tmp_path / "t.csv")
    assert report_csv.thirds(tmp_path / "t.csv") == [
        {"of": "m, d", "component": "mlp", "corruption": "sip", "samples": "20", "thirds": [[0.3] * 3, [0.3] * 3, [0.4, 0.3, 0.5]]}
    ]
    pd.DataFrame([{"model": "m", "dataset": "d", "component": "mlp", "row": "claim", "claim": "undecided"}]).to_csv(tmp_path / "c.csv")
    assert report_csv.noise_claims(tmp_path / "c.csv") == [{"of": "m, d, mlp", "claim": "undecided"}]


def test_the_other_direction_is_said(tmp_path):
    write_results(tmp_path, models=["blip-small"], corruptions=["sip"])
    (tmp_path / "blip-small" / "shapes" / "sip").rename(tmp_path / "blip-small" / "shapes" / "sip-noising")
    page = report.write(tmp_path).paths[0].read_text(encoding="utf-8")
    assert "corrupt states were put into the clean run" in prose(page)
    assert [run["name"] for run in embedded(page)["studies"][0]["corruptions"]] == ["sip-noising"]


def test_text_from_the_data_cannot_end_the_script():
    text = whole._json({"a": "</script><b>\u2028", "b": [1.5, None]})
    assert "<" not in text
    assert json.loads(text) == {"a": "</script><b>\u2028", "b": [1.5, None]}


def test_numbers_are_never_raw():
    assert [number(v) for v in (float("nan"), None, "x", float("-inf"))] == ["–", "–", "–", "−∞"]
    assert [number(v, "+.3f") for v in (0.25, -0.25, -0.0001)] == ["+0.250", "−0.250", "0.000"]
    assert number(np.int64(3), "d") == "3"


def test_samples_left_out_are_counted_once_by_reason():
    entries = [{"sample": f"s{i}", "reason": "black"} for i in range(7)] + [{"sample": "t"}]
    rows = left_out({"data": {"shapes": {"left_out": entries}}})
    assert [(row["reason"], row["count"]) for row in rows] == [("black", "7"), ("no reason given", "1")]
    assert rows[0]["samples"] == "s0, s1, s2, s3, s4, …"
    wrong = [
        {"sample": "a", "reason": "the model answers 'red', not 'blue'"},
        {"sample": "b", "reason": "the model answers 'blue', not 'red'"},
    ]
    (row,) = left_out({"runs": {"m/d/sip/mlp.nc": {"left_out": wrong}, "m/d/str/mlp.nc": {"left_out": wrong[:1]}, "m/d/attention.nc": {}}})
    assert row == {"place": "m, d", "reason": "the model answers …, not …", "count": "2", "samples": "a, b"}


def test_attention_is_among_the_runs():
    (row,) = runs({"m/d/attention.nc": 4}, {"runs": {"m/d/attention.nc": {"status": "finished", "samples": 4, "seconds": 2}}})
    assert (row["corruption"], row["component"], row["samples"]) == ("clean run", "attention", "4")
    assert (row["seconds"], row["status"]) == ("2.0", "finished")


def test_the_script_runs_from_any_folder_and_says_what_is_wrong(results, tmp_path, monkeypatch):
    script = [sys.executable, str(ROOT / "analysis" / "report.py")]
    done = subprocess.run([*script, "--results", str(results), "--samples", "3"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"wrote {results / 'report.html'} (")
    monkeypatch.setattr(sys, "argv", ["report.py", "--results", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="report: no results folder at"):
        report.main()


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(ResultsError, match="no results folder at"):
        report.write(tmp_path / "nothing").paths[0]
    with pytest.raises(ResultsError, match="nothing to report below"):
        report.write(tmp_path).paths[0]


def test_a_broken_manifest_is_named(tmp_path):
    write_results(tmp_path, models=["blip-small"], corruptions=["str"])
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ResultsError, match=r"manifest.json is not JSON"):
        report.write(tmp_path).paths[0]
