"""The examples in the docstrings of the accessor and of the analysis run, on a results folder written by hand at `results`."""

import ast
import doctest
import importlib
import shutil
from pathlib import Path

import pytest

from interventions.results.effects import Effects
from interventions.results.metrics import METRICS
from tests.support.synthetic_results import write_results

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    *sorted((ROOT / "analysis").rglob("*.py")),
    *sorted((ROOT / "interventions" / "results").glob("*.py")),
    ROOT / "data_prep/tables/command.py",
]
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(FILES) if ">>> " in path.read_text(encoding="utf-8")]
WHOLE = (  # modules all of whose public functions have an example
    "universal_heads",
    "robust_heads",
    "heads.options",
    "heads.rules",
    "heads.notice",
    "heads.robust",
    "heads.resampled",
    "heads.robust_tables",
    "heads.subsampling",
    "stats.resampling",
    "heads.overlap",
    "heads.power",
    "stability",
    "store.folder",
    "stats.family_wise",
    "stats.multiple_tests",
    "stats.thirds",
    "heads.head_effects",
    "compare_corruptions",
    "corruptions.statistics",
    "corruptions.comparable",
    "modules",
    "module_effects.maps",
    "module_effects.folder_maps",
    "plots.module_maps",
    "module_effects.tables",
    "paper_claims",
    "claims.page",
    "report",
    "figures",
    "store.tables",
    "head_functions",
    "functions.scores",
    "functions.samples",
    "functions.statistics",
    "functions.rule",
    "functions.tables",
    "functions.agreement",
    "functions.registry",
    "plots.every",
    "products",
)
WITHOUT = {
    "main",
    "damaged",
}  # commands, and what only makes or raises an error


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return write_results(tmp_path_factory.mktemp("doctests") / "results", models=["blip-small"])


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name, results, tmp_path, monkeypatch):
    shutil.copytree(results, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0


def test_an_example_that_is_wrong_is_found():
    example = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner(verbose=False).run(example, out=lambda _: None).failed == 1


@pytest.mark.parametrize("name", WHOLE)
def test_every_public_function_has_an_example(name):
    tree = ast.parse((ROOT / "analysis" / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    assert [f.name for f in functions if f.name not in WITHOUT and ">>> " not in (ast.get_docstring(f) or "")] == []


def test_every_verb_of_the_accessor_has_an_example():
    verbs = [getattr(Effects, name) for name in vars(Effects) if not name.startswith("_") and name != "base"]
    verbs += [metric.formula for metric in METRICS.values()]
    assert len(verbs) == 13
    assert [verb.__name__ for verb in verbs if ">>> " not in (verb.__doc__ or "")] == []
