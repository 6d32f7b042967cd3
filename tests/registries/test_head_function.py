"""A head function is added by one entry: it is judged, drawn, told and listed without a change anywhere else."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import head_functions, report, universal_heads
from analysis.functions import registry
from analysis.functions.registry import Floor, HeadFunction, ScoreTest, Thresholds
from analysis.plots import every
from analysis.store.folder import read_tree
from tests.support.synthetic_results import write_results

NAME, COLOUR = "corner_gazing", "#123456"
ENTRY = HeadFunction(
    tests=(ScoreTest("evenness", "evenness", 1),),
    floors=(Floor("outlier_ratio", 0.95), Floor("outlier_ratio", 5.0, -1)),
    sentence="looks at the corner patches more than the mean head does",
    of_object=False,
    expected_sign=-1,
    color=COLOUR,
    marker="P",
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A study in which heads have the function that was added."""
    folder = write_results(tmp_path_factory.mktemp("registry"), models=["blip-small"])
    universal_heads.write(folder, universal_heads.UniversalHeads(permutations=0))
    with pytest.MonkeyPatch.context() as added:
        added.setitem(registry.FUNCTIONS, NAME, ENTRY)
        head_functions.write(folder, head_functions.HeadFunctions(resamples=50, permutations=2))
        yield folder


def heads_of(results, name=NAME) -> np.ndarray:
    return (read_tree(results / "head_functions.nc")["blip-small"]["function"].sel(task="overall") == name).values


def test_heads_are_judged_by_its_tests_and_floors(results):
    found = heads_of(results)
    assert 1 < found.sum() < found.size
    judged = read_tree(results / "head_functions.nc")["blip-small"].sel(task="overall")
    assert (judged["outlier_ratio"].values[found] >= 0.95).all()
    assert (judged["q"].sel(rule=NAME).values[found] <= 0.05).all()
    assert ENTRY.rule(Thresholds()) == "evenness above 0.9; outlier ratio ≥ 0.95, outlier ratio ≤ 5"


def test_it_is_in_every_table(results):
    count = int(heads_of(results).sum())
    scores = pd.read_csv(results / "head_functions.csv", keep_default_na=False)
    assert {f"{NAME}_p", f"{NAME}_q", f"{NAME}_verdict"} <= set(scores.columns)
    by_task = pd.read_csv(results / "head_functions_by_task.csv", keep_default_na=False)
    assert (by_task["overall"] == NAME).sum() == count
    assert f"{NAME}_tasks" in by_task
    agreement = pd.read_csv(results / "head_functions_agreement.csv", keep_default_na=False)
    rows = agreement[(agreement["function"] == NAME) & (agreement["task"] == "overall")]
    assert set(rows["expected_sign"]) == {-1}
    assert set(rows["agrees"]) <= {"yes", "no", "undecided"}
    assert set(rows["heads"]) == {count}


def texts(figure: Figure) -> str:
    return " ".join(text.get_text().replace("\n", " ") for text in figure.findobj(lambda one: hasattr(one, "get_text")))


def test_every_figure_that_shows_functions_shows_it(results):
    drawn = dict(every.every_figure(results))
    of_functions = drawn["blip-small/head-functions"]
    assert "corner gazing" in texts(of_functions)
    assert any(patch.get_facecolor()[:3] == pytest.approx((0x12 / 255, 0x34 / 255, 0x56 / 255)) for patch in of_functions.axes[1].patches)
    noted = [name for name in ("attention-overlays", "attention-means") if "corner gazing" in texts(drawn[f"blip-small/shapes/{name}"])]
    assert noted == ["attention-overlays", "attention-means"]


def test_the_report_shows_it_first_and_on_the_pages_of_its_heads(results):
    shown = report.find(results)
    count = int(heads_of(results).sum())
    assert ("corner gazing", count) in shown["summary"][0]["functions"]
    classes = shown["data"]["studies"][0]["functions"]["classes"]
    assert classes["function"][0].count(NAME) == count
    assert f"{NAME} verdict" in classes
    page = re.sub(r"\s+", " ", report.write(results).paths[0].read_text(encoding="utf-8"))
    assert f"corner gazing: {count}" in page.split('id="ran"')[0]
    assert "<strong>Corner gazing</strong>: looks at the corner patches" in page


def test_it_is_in_the_lists_of_documents_and_in_the_words(results):
    assert "- corner gazing: a head that looks at the corner patches" in registry.listing()
    words = head_functions.write(results, head_functions.HeadFunctions(resamples=0, permutations=0)).words
    assert f"corner gazing: {int(heads_of(results).sum())}" in words


def test_a_function_that_a_file_names_and_that_is_not_known_is_shown_as_it_is_called(results, monkeypatch):
    monkeypatch.delitem(registry.FUNCTIONS, NAME)
    assert "corner gazing" in texts(dict(every.every_figure(results))["blip-small/head-functions"])
    assert ("corner gazing", int(heads_of(results).sum())) in report.find(results)["summary"][0]["functions"]


def test_the_readme_lists_the_functions_that_there_are():
    readme = Path(__file__).resolve().parents[2] / "analysis" / "README.md"
    text = " ".join(readme.read_text(encoding="utf-8").split())
    for name in (name for name in registry.FUNCTIONS if name != NAME):
        assert f"- {registry.words(name)}: a head that {registry.FUNCTIONS[name].sentence}" in text
