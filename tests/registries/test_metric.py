"""A metric is added by one entry: log-probability ratio is computed, judged, drawn, told and listed without a change anywhere else."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import report, universal_heads
from analysis.heads.options import NoticeRule
from analysis.plots import every
from analysis.store.folder import read_tree
from interventions.results import effects, metrics
from tests.support.synthetic_results import write_results

ROOT = Path(__file__).resolve().parents[2]
NAME, SENTENCE = "log_probability_ratio", "log P_patched(correct) - log P_base(correct), a ratio of probabilities"
ENTRY = '''"""A metric of another file."""

from interventions.results.metrics import register


@register("log units", "log P patched / P {base}")
def log_probability_ratio(runs):
    """log P_patched(correct) - log P_base(correct), a ratio of probabilities"""
    return runs.patched.log_probability - runs.base.log_probability
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the one file."""
    path = tmp_path_factory.mktemp("metric")
    (path / "ratio.py").write_text(ENTRY, encoding="utf-8")
    return path


@pytest.fixture(scope="module", autouse=True)
def added(folder):
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        importlib.import_module("ratio")
        yield
    del metrics.METRICS[NAME]


@pytest.fixture(scope="module")
def results(tmp_path_factory, added) -> Path:
    """A study that is judged by the metric."""
    path = write_results(tmp_path_factory.mktemp("metric") / "results", models=["blip-small"])
    universal_heads.write(path, NoticeRule(NAME, permutations=0))
    return path


def test_heads_are_judged_by_it_in_files_and_tables(results):
    universal = read_tree(results / "universal_heads.nc")["blip-small"]
    assert (universal.attrs["metric"], universal["mean_effect"].attrs["units"]) == (NAME, "log units")
    heads = effects.read(results / "blip-small/shapes/sip/cross_attention-heads.nc").sel(token="correct", layer=1, head=2)
    expected = heads.effects.log_probability_ratio().groupby("category").mean("sample").mean()
    rows = pd.read_csv(results / "universal_heads.csv", keep_default_na=False)
    assert rows.set_index("name")["sip_mean_effect"]["L1.H2"] == pytest.approx(float(expected), rel=1e-5)


def texts(figure: Figure) -> str:
    return " ".join(text.get_text().replace("\n", " ") for text in figure.findobj(lambda one: hasattr(one, "get_text")))


def test_every_figure_of_effects_shows_its_label(results):
    drawn = dict(every.every_figure(results, NAME))
    shown = [name for name in drawn if name.startswith("blip-small/shapes/sip-")]
    assert {"blip-small/shapes/sip-modules"} < set(shown)
    for name in shown:
        assert "log P patched / P corrupt" in texts(drawn[name]), name


def test_the_first_screen_of_the_report_says_what_it_is(results):
    shown = report.find(results)
    assert shown["judged_by"] == ("log probability ratio", SENTENCE)
    assert shown["data"]["metric"] == {"name": "log probability ratio", "units": "log units"}
    page = re.sub(r"\s+", " ", report.write(results).paths[0].read_text(encoding="utf-8"))
    assert f"Heads are judged by log probability ratio: {SENTENCE}" in page.split('id="ran"')[0]
    assert f"<dt>log probability ratio</dt><dd>{SENTENCE} (log units)</dd>" in page


def test_a_file_judged_by_a_metric_that_is_not_known_is_shown_as_it_is_called(results, monkeypatch):
    monkeypatch.delitem(metrics.METRICS, NAME)
    shown = report.find(results)
    assert shown["judged_by"] == ("log probability ratio", "a metric that is not known")
    assert shown["universal"][0]["units"] == "unknown unit"


def test_help_offers_it(folder):
    asks = "import ratio, run_all, sys; sys.argv = ['run_all.py', '--help']; run_all.main()"
    told = subprocess.run(
        [sys.executable, "-c", asks], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True
    ).stdout
    assert NAME in told.split("--metric")[1].split("--power-runs")[0]


def test_documents_list_the_metrics_that_there_are(monkeypatch):
    assert f"| `{NAME}` | log units | {SENTENCE} |" in metrics.table()
    monkeypatch.delitem(metrics.METRICS, NAME)
    assert metrics.table() in (ROOT / "README.md").read_text(encoding="utf-8")
