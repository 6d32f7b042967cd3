"""Samples that a model answers correctly: how answers are judged, which samples are drawn, what is said of the others."""

import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import tyro
from PIL import Image

from data_prep.tables import schema as samples
from data_prep.tables.sample import SampleError
from interventions.backends import answering
from interventions.backends.opening import prepare
from interventions.methods import select_samples as selecting
from interventions.methods.options import SelectSamples
from interventions.methods.select_samples import ALL, PUBLISHED, accuracy_table, draw, in_halves
from interventions.models import names
from interventions.select_samples import main, select_samples
from interventions.study.answer_match import is_normalised_match, normalised
from interventions.study.options import Options
from tests.conftest import ROOT

REFERENCE = ROOT.parent / "shared" / "REFERENCE.md"


@pytest.mark.parametrize(
    ("generated", "correct", "incorrect", "match"),
    [
        ("red", "red", "blue", True),
        (" The RED! ", "red", "blue", True),
        ("two", "2", "3", True),
        ("2", "two", "three", True),
        ("a half-open door", "half open door", "closed door", True),
        ("ＲＥＤ", "red", "blue", True),  # full-width letters
        ("Red, because it is ripe", "red", "blue", True),
        ("red because of the light", "red", "blue", True),
        ("Red\nIt is ripe", "red", "blue", True),
        ("Red – as ripe ones are", "red", "blue", True),
        ("St. Bernard, a large dog", "St. Bernard", "poodle", True),
        ("dark red", "dark red", "red", True),
        ("1.5", "1.5", "1", True),
        ("the", "the", "sea", True),
        ("blue", "red", "blue", False),
        ("", "red", "blue", False),
        ("red and blue", "red", "blue", False),
        ("red or blue", "red", "blue", False),
        ("red, blue", "red", "blue", False),
        ("dark red", "red", "blue", False),
        ("reddish", "red", "blue", False),
        ("red wine", "red", "blue", False),
        ("not red", "red", "blue", False),
        ("1.5", "1", "2", False),
        ("5", "-5", "3", False),
        ("sparrow hawk", "sparrow", "sparrow hawk", False),
        ("3", "3", "three", False),  # the options are the same once normalised
        ("", "+", "-", False),
    ],
)
def test_normalised_match(generated, correct, incorrect, match):
    assert is_normalised_match(generated, correct, incorrect) is match


def test_normalised_words():
    assert normalised("  The Twenty_one, an 'A' 3.50 C++ ") == "20 1 3.50 c"
    assert normalised("an a") == "an a"


ROWS = {  # category: (correct first, answered) for each sample
    "colour": [(True, "red")] * 4 + [(False, "red")] * 4 + [(True, "the red")] * 3 + [(False, "blue")] * 2,
    "kind": [(True, "red")] * 3 + [(False, "Red.")] + [(False, "blue")] * 2,
}


@pytest.fixture
def table(tmp_path):
    """A table of the counts of `ROWS`."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8))
    rows = []
    for category, kinds in ROWS.items():
        for number, (first, _) in enumerate(kinds):
            question = "Is it red or blue?" if first else "Is it blue or red?"
            row = {"sample_id": f"{category}-{number}", "dataset": "things", "category": category, "question": question}
            row |= {"correct_answer": "red", "incorrect_answer": "blue", "clean_image": image, "corrupt_image": image.rotate(90)}
            rows.append(row)
    left_out = [{"sample": "broken", "reason": "no image"}]
    samples.save(samples.build(rows), tmp_path / "things", {"name": "things", "seed": 7, "licence": "CC0", "left_out": left_out})
    return tmp_path / "things"


@pytest.fixture
def saying(monkeypatch):
    """The model says what `ROWS` has; the list grows by each batch's size."""
    batches = []
    said = {f"{category}-{number}": answer for category, kinds in ROWS.items() for number, (_, answer) in enumerate(kinds)}

    def generate(vlm, rows, tokens):
        batches.append(len(rows))
        return {row["sample_id"]: said[row["sample_id"]] for row in rows}

    monkeypatch.setattr(answering, "generate_answers", generate)
    return batches


def options(table, **more):
    return SelectSamples(
        **{
            "table": table,
            "model": "blip-shapes",
            "out": table.parent / "out",
            "results": table.parent / "results",
            "device": "cpu",
            **more,
        }
    )


def orders(dataset):
    return Counter(zip(dataset["category"], dataset["correct_first"], strict=True))


def test_what_is_taken_is_correct_and_half_has_the_correct_option_first(table, saying, blip):
    made = select_samples(options(table, per_category=4), blip)
    taken = samples.load(table.parent / "out")
    assert orders(taken) == {("colour", True): 2, ("colour", False): 2, ("kind", True): 3, ("kind", False): 1}  # one half fills the other
    assert len(set(taken["sample_id"])) == 8
    correct = {f"{category}-{number}" for category in ROWS for number, (_, said) in enumerate(ROWS[category]) if said in ("red", "Red.")}
    assert set(taken["sample_id"]) <= correct
    whole = {row["sample_id"]: row for row in samples.load(table)}
    for row in taken:
        assert row == whole[row["sample_id"]] | {"dataset": "things-blip-shapes-selected"}
    (warning,) = made.warnings
    assert warning == (
        "kind: 4 of 4 samples, 3 with the correct option first and 1 after; of 6, the model answers 3 and 1 correctly (exact match)"
    )


def test_the_normalised_match_takes_more(table, saying, blip):
    made = select_samples(options(table, per_category=10, match="normalised"), blip)
    assert orders(samples.load(table.parent / "out")) == {("colour", True): 6, ("colour", False): 4, ("kind", True): 3, ("kind", False): 1}
    assert [line.partition(" samples")[0] for line in made.warnings] == ["colour: 10 of 10", "kind: 4 of 10"]


def test_accuracy_is_a_table_beside_the_samples(table, saying, blip):
    select_samples(options(table, per_category=2), blip)
    written = pd.read_csv(table.parent / "out" / "accuracy.csv")
    assert written.to_dict("list") == {
        "dataset": ["things"] * 3,
        "category": ["colour", "kind", ALL],
        "asked": [13, 6, 19],
        "exact": [8, 4, 12],
        "normalised": [11, 4, 15],
        "exact_percent": [61.54, 66.67, 63.16],
        "normalised_percent": [84.62, 66.67, 78.95],
    }


def test_data_json_says_whence_and_why(table, saying, blip):
    record = select_samples(options(table, per_category=2, seed=5), blip).record
    assert record == samples.provenance(table.parent / "out")
    source = samples.provenance(table)
    assert record["source_table"] == {key: source[key] for key in source if key != "left_out"}
    assert record["selection"] == {
        "table_fingerprint": source["fingerprint"],
        "model": "blip-shapes",
        "model_revision": blip.revision,
        "dtype": "float32",
        "match": "exact",
        "per_category": 2,
        "seed": 5,
        "warnings": [],
    }
    reasons = {entry["sample"]: entry["reason"] for entry in record["left_out"]}
    assert reasons["broken"] == "no image"
    assert reasons["colour-8"] == "the model answers 'the red', not 'red' (exact match)"
    assert Counter(reasons.values())["not drawn among those of 'colour' that the model answers correctly"] == 6
    assert set(reasons) - {"broken"} == set(samples.load(table)["sample_id"]) - set(samples.load(table.parent / "out")["sample_id"])


def judged(correct):
    """Ten samples of each order, of which those numbered are correct."""
    rows = [(f"s{number}", "colour", number % 2 == 0, number in correct) for number in range(20)]
    return pd.DataFrame(rows, columns=["sample_id", "category", "correct_first", "exact"])


def test_the_draw_is_by_seed_and_id_alone():
    everything = draw(judged(range(20)), "exact", 8, 0)[0]
    assert draw(judged(range(20)), "exact", 8, 0)[0] == everything
    assert sorted(draw(judged(range(20)), "exact", 8, 1)[0]) != sorted(everything)
    others = set(range(20)) - set(everything)
    assert draw(judged(set(range(20)) - {others.pop()}), "exact", 8, 0)[0] == everything  # one who was not drawn does not matter
    assert sorted(draw(judged(range(20))[::-1].reset_index(drop=True), "exact", 8, 0)[0]) == sorted(19 - index for index in everything)
    assert set(everything) <= set(draw(judged(range(20)), "exact", 12, 0)[0])


def test_every_correct_sample_is_drawn_equally_often():
    counts = Counter(index for seed in range(400) for index in draw(judged(range(20)), "exact", 10, seed)[0])
    expected, deviation = 400 * 0.5, (400 * 0.5 * 0.5) ** 0.5
    assert all(abs(counts[index] - expected) < 4.5 * deviation for index in range(20))


@pytest.mark.parametrize(
    ("first", "second", "wanted", "taken"),
    [("abcd", "wxyz", 4, "abwx"), ("abcd", "wxyz", 5, "abwxy"), ("a", "wxyz", 4, "awxy"), ("abcd", "", 3, "abc"), ("a", "w", 9, "aw")],
)
def test_halves(first, second, wanted, taken):
    assert "".join(in_halves(first, second, wanted)) == taken


def test_published_figures_stand_in_the_whole_data_sets_row():
    frame = pd.DataFrame({"dataset": "fer2013", "category": ["happy", "sad"], "exact": [True, False], "normalised": [True, True]})
    shown = accuracy_table(frame, {"fer2013": 12.5})
    assert shown.published_exact_percent.fillna(-1).to_list() == [-1, -1, 12.5]


@pytest.mark.skipif(not REFERENCE.exists(), reason="the figures' source is not here")
def test_published_figures_are_the_papers():
    text = re.search(r"Published accuracy.*?%", REFERENCE.read_text(), re.DOTALL)[0]
    pairs = [tuple(map(float, found)) for found in re.findall(r"(\d+\.\d+) / (\d+\.\d+)", text)]
    blip, llava = ([PUBLISHED[names.HUB[name]][data] for data in ("svo_probes", "mit_states", "fer2013")] for name in names.HUB)
    assert list(zip(blip, llava, strict=True)) == pairs


def test_a_folder_that_only_has_a_models_name_gets_no_published_figures(table, saying, blip, monkeypatch):
    monkeypatch.chdir(table.parent)
    (table.parent / "Salesforce/blip-vqa-base").mkdir(parents=True)
    monkeypatch.setitem(PUBLISHED, "Salesforce/blip-vqa-base", {"things": 50.0})
    made = select_samples(options(table, per_category=2, model="Salesforce/blip-vqa-base"), blip)
    assert "published_exact_percent" not in made.accuracy
    for chosen in ({"model": "blip-vqa-base"}, {"model": "Salesforce/blip-vqa-base", "published": "blip-vqa-base"}):
        made = select_samples(options(table, per_category=2, **chosen), blip)
        assert made.accuracy.published_exact_percent.to_list()[-1] == 50.0


def test_a_name_that_is_no_folders_is_refused_before_the_model_answers(table, saying, blip):
    with pytest.raises(SampleError, match=r"'x/\.\./y' must not start"):
        select_samples(options(table, name="x/../y"), blip)
    assert saying == []


def test_an_interrupted_run_goes_on(table, saying, blip, monkeypatch):
    say = answering.generate_answers
    chosen = options(table, per_category=2, batch=5)
    monkeypatch.setattr(
        answering, "generate_answers", lambda *given: say(*given) if len(saying) < 2 else (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        select_samples(chosen, blip)
    assert not (table.parent / "out").exists()
    monkeypatch.setattr(answering, "generate_answers", say)
    resumed = select_samples(chosen, blip).record
    assert saying == [5, 5, 5, 4]  # of 19: none asked twice
    assert select_samples(options(table, per_category=2, match="normalised"), blip).record["selection"]["match"] == "normalised"
    assert len(saying) == 4  # another choice asks no more
    whole = select_samples(options(table, per_category=2, results=table.parent / "other"), blip).record
    assert whole == resumed


def test_a_study_finds_the_answers(table, saying, blip):
    select_samples(options(table, per_category=2), blip)
    asked = len(saying)
    study = prepare(Options(model="blip-shapes", data=str(table), out=table.parent / "results", device="cpu"), blip)
    assert study.answers["colour-8"] == "the red"
    assert len(saying) == asked


def test_a_models_own_answers_are_judged(tmp_path, shapes, vlm):
    """The shipped models, by each sample alone, also as a remote host is asked; the selected table is one that a study takes wholly."""
    samples.save(shapes, tmp_path / "shapes", {"name": "shapes", "seed": 1, "left_out": []})
    made = select_samples(options(tmp_path / "shapes", per_category=2), vlm)
    elsewhere = {"backend": "remote-dry-run", "results": tmp_path / "elsewhere"}
    there = select_samples(options(tmp_path / "shapes", model=vlm.name, per_category=2, out=tmp_path / "there", **elsewhere))
    pd.testing.assert_frame_equal(there.accuracy, made.accuracy)
    said = [vlm.generate([row["question"]], [row["clean_image"]])[0].strip().rstrip(".") for row in shapes]
    right = {row["sample_id"] for row, text in zip(shapes, said, strict=True) if text == row["correct_answer"]}
    assert made.accuracy.exact.to_list()[-1] == len(right)
    taken = samples.load(tmp_path / "out")
    assert set(taken["sample_id"]) <= right
    study = prepare(Options(model=vlm.name, data=str(tmp_path / "out"), samples=2, out=tmp_path / "results", device="cpu"), vlm)
    pairs, left_out = study.pairs("sip")
    assert {pair.sample["sample_id"] for pair in pairs} == set(taken["sample_id"])
    assert left_out == []


def test_a_question_that_is_too_long_is_left_out_as_such(tmp_path, blip, shapes):
    row = dict(shapes[0]) | {"sample_id": "long", "question": f"Is the {'very ' * 20}big circle red or blue?", "correct_first": True}
    row |= {"correct_answer": "red", "incorrect_answer": "blue", "clean_attributes": "", "corrupt_attributes": ""}
    samples.save(samples.build([row, *(dict(shapes[i]) for i in range(1, 4))]), tmp_path / "t", {"name": "long", "left_out": []})
    record = select_samples(options(tmp_path / "t", per_category=4), blip).record
    assert {"sample": "long", "reason": "the prompt has 92 tokens, the model takes 64"} in record["left_out"]


def test_no_correct_answer_says_what_was_answered(table, monkeypatch, blip):
    monkeypatch.setattr(answering, "generate_answers", lambda _, rows, tokens: {row["sample_id"]: "The red" for row in rows})
    with pytest.raises(
        SampleError, match=r"answers no sample of .*things correctly \(exact match\)(.|\n)*'The red', not 'red'(.|\n)*100\.0"
    ):
        select_samples(options(table), blip)
    assert not (table.parent / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"per_category": 0}, "--per-category must be at least 1, not 0"),
        ({"seed": -1}, "--seed must be at least 0, not -1"),
        ({"batch": 0}, "--batch must be at least 1"),
        ({"out": "things"}, "--out is the table itself"),
        ({"out": "something"}, "exists and is not a sample table"),
        ({"table": "nowhere"}, "no sample table at"),
        ({"model": "nothing"}, "unknown model 'nothing'"),
    ],
)
def test_wrong_options_are_refused_before_the_work(table, saying, blip, wrong, message):
    (table.parent / "something").mkdir()
    (table.parent / "something/note.txt").write_text("mine")
    wrong = {key: table.parent / value if key in ("out", "table") else value for key, value in wrong.items()}
    with pytest.raises(ValueError, match=message):
        select_samples(options(**{"table": table, **wrong}), blip)
    assert saying == []


def test_the_command_prints_accuracy_and_warnings(table, saying, monkeypatch, capsys, blip):
    monkeypatch.setattr(selecting, "open_model", lambda _: blip)
    monkeypatch.setattr(tyro, "cli", lambda _: options(table, per_category=4))
    main()
    printed = capsys.readouterr()
    assert re.search(r"things +colour +13 +8 +11 +61.54 +84.62\n", printed.out)
    assert re.search(r"\n8 samples \((4 colour, 4 kind|4 kind, 4 colour)\) in \S+/out\n$", printed.out)
    assert "warning: kind: 4 of 4 samples" in printed.err
    monkeypatch.setattr(tyro, "cli", lambda _: options(table, per_category=0))
    with pytest.raises(SystemExit, match=r"interventions\.select_samples: --per-category"):
        main()


def test_both_forms_explain_themselves_without_the_models_stage(tmp_path):
    for command, folder in (([f"{ROOT}/interventions/select_samples.py"], tmp_path), (["-m", "interventions.select_samples"], ROOT)):
        done = subprocess.run([sys.executable, *command, "--help"], capture_output=True, text=True, cwd=folder, check=False)
        assert done.returncode == 0, done.stderr
        assert "Example: python -m interventions.select_samples" in " ".join(done.stdout.split())
    loaded = "[name for name in sys.modules if name.split('.')[0] in ('interventions', 'nnsight', 'torch')]"
    code = f"import json, sys, interventions.select_samples; print(json.dumps({loaded}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {"nnsight", "torch"} & set(json.loads(done.stdout))
    assert not [name for name in json.loads(done.stdout) if name.startswith(("interventions.engine", "interventions.backends"))]
