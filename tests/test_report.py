"""The report of a results folder written by hand: what is said, what is embedded, what is said to be missing."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from analysis import figures, head_functions, report, universal_heads
from analysis.report_tables import left_out, number, runs
from analysis.results import ResultsError
from tests.synthetic_results import write_results


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("report"))
    universal_heads.find_and_write(folder, universal_heads.Rule(permutations=50))
    head_functions.find_and_write(folder)
    return folder


@pytest.fixture(scope="module")
def drawn(results) -> list[Path]:
    return figures.draw_all(results, samples=2)


@pytest.fixture(scope="module")
def page(results, drawn) -> str:
    return report.write_report(results).read_text(encoding="utf-8")


def prose(page: str) -> str:
    return re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)


class Wellformed(HTMLParser):
    """Fails on a tag that is closed in the wrong place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        if tag == "a":
            self.links.add(given["href"])
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_whole_and_self_contained(page):
    parser = Wellformed()
    parser.feed(page)
    assert parser.open == []
    assert {link.removeprefix("#") for link in parser.links} <= parser.ids
    assert page.count("data:image/png;base64,") == 10
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_the_report_says_what_was_found(page):
    text = prose(page)
    for part in (
        "L1.H2",
        "vision",
        "L0.H5",
        "multimodal",
        "object detection",
        "outlier suppression",
        "85.7",
        "options of unequal token length",
        "2 of 2",
    ):
        assert part in text, part
    assert "answered &lt;wrongly&gt;" in text
    assert "Attention is not causation" in text
    assert not re.search(r"\bnan\b|NaN|\binf\b|<td[^>]*>None<", text)


def test_the_report_says_what_was_not_run(tmp_path):
    write_results(tmp_path, models=["llava-small"], corruptions=["str"])
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "llava-small" / "shapes" / "attention.nc").unlink()
    for path in (tmp_path / "llava-small" / "shapes" / "str").glob("*.nc"):
        if not path.name.endswith("-heads.nc"):
            path.unlink()
    unjudged = prose(report.write_report(tmp_path).read_text(encoding="utf-8"))
    assert "universal heads were not looked for" in unjudged
    universal_heads.find_and_write(tmp_path, universal_heads.Rule(permutations=0))
    text = prose(report.write_report(tmp_path).read_text(encoding="utf-8"))
    assert "no image corruption was run, so a head named text may be multimodal" in text
    assert "whole modules were not patched under the str corruption" in text
    assert "attention maps were not collected" in text
    assert "The manifest records no answers" in text
    assert not re.search(r"\bnan\b|NaN", text)


def test_an_unfinished_run_is_named(tmp_path):
    write_results(tmp_path, models=["blip-small"], corruptions=["str"])
    (tmp_path / "manifest.json").write_text('{"runs": {"blip-small/shapes/sip/cross_attention-heads.nc": {"status": "stopped"}}}')
    (tmp_path / "blip-small" / "shapes" / "sip" / ".mlp.partial").mkdir(parents=True)
    text = prose(report.write_report(tmp_path).read_text(encoding="utf-8"))
    assert "blip-small/shapes/sip/cross_attention-heads.nc: stopped." in text
    assert "stopped (no file)" in text
    assert "blip-small/shapes/sip/mlp.nc: started, not finished." in text


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
    assert (row["corruption"], row["component"], row["samples"], row["seconds"], row["status"]) == (
        "clean run",
        "attention",
        "4",
        "2.0",
        "finished",
    )


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(ResultsError, match="no results folder at"):
        report.write_report(tmp_path / "nothing")
    with pytest.raises(ResultsError, match="nothing to report below"):
        report.write_report(tmp_path)


def test_a_broken_manifest_is_named(tmp_path):
    write_results(tmp_path, models=["blip-small"], corruptions=["str"])
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ResultsError, match=r"manifest.json is not JSON"):
        report.write_report(tmp_path)
