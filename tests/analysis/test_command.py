"""How the commands of the analysis end: on Ctrl-C, on a wrong option, when nobody reads on, and at a damaged table."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import figures, report, robust_heads, universal_heads
from analysis.heads.options import RobustRule
from analysis.store.folder import ResultsError
from data_prep.tables import command
from interventions.results.metrics import METRICS
from tests.support.synthetic_results import write_results

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {path.stem for path in (ROOT / "analysis").glob("*.py") if "def main()" in path.read_text(encoding="utf-8")}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("command") / "results", models=["blip-small"])
    universal_heads.write(folder, universal_heads.UniversalHeads(permutations=0))
    robust_heads.write(folder, RobustRule(permutations=9, resamples=0))
    return folder


def test_all_commands_are_tried():
    assert {"modules", "compare_corruptions", "figures", "paper_claims", "report", "stability"} <= COMMANDS
    assert len(COMMANDS) == 9


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_an_interrupted_or_failing_command_says_so_in_a_line(name, monkeypatch, capsys, tmp_path):
    module = importlib.import_module(f"analysis.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--results", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit, match=f"^{name}: no results folder at"):
        module.main()
    monkeypatch.setattr(module, "write", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == command.INTERRUPTED
    assert capsys.readouterr().err == f"\n{name}: interrupted; what is finished is kept, run the same command to go on\n"


@pytest.mark.parametrize("name", sorted(COMMANDS - {"report", "paper_claims"}))
def test_the_help_names_every_metric(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(f"analysis.{name}").main()
    shown = "".join(capsys.readouterr().out.split())
    assert not [metric for metric in METRICS if f"{metric}:" not in shown]


@pytest.mark.parametrize("name", ["universal_heads", "figures"])
def test_a_command_whose_words_nobody_reads_ends_quietly(name, results):
    program = f"import analysis.{name} as one, sys; sys.stdin.read(); one.main()"
    arguments = [sys.executable, "-c", program, "--results", str(results)]
    with subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        started.stdout.close()  # as `| head` does
        started.stdin.close()
        errors = started.stderr.read()
    assert started.returncode == command.NOBODY_READS
    assert errors == ""


@pytest.mark.parametrize("text", ["", "model,rule\nblip-small,notice\n"])
def test_a_damaged_table_is_named_with_the_command_that_makes_it_again(text, results):
    table = results / "robust_overlap.csv"
    whole = table.read_text(encoding="utf-8")
    table.write_text(text, encoding="utf-8")
    try:
        for verb in (figures.write, report.write):
            with pytest.raises(ResultsError, match=r"robust_overlap\.csv .*make it again with `python -m analysis\.robust_heads --results"):
                verb(results)
    finally:
        table.write_text(whole, encoding="utf-8")
