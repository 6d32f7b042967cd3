"""IconQA: which problems make a pair, how their questions read, and what happens to those that cannot be used."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.iconqa import IconQa, question_with, read_iconqa
from data_prep.tables import preparing
from data_prep.tables import schema as samples
from data_prep.tables.readers import run
from data_prep.tables.sample import SampleError, option_spans

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "iconqa"
DOTS = "How many dots are there?"


def write(folder, task, number, question, answer, split="val", image=True, **more):
    """A problem as released."""
    path = folder / "iconqa_data" / "iconqa" / split / task / str(number)
    path.mkdir(parents=True)
    record = {"question": question, "answer": answer, "ques_type": task, "grade": "prek", "label": "D5", **more}
    (path / "data.json").write_text(json.dumps(record, indent=2))
    if image:
        pixels = np.random.default_rng(number).integers(0, 256, (10, 8 + number % 5, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path / "image.png")
    return path


def fill(folder, number, question, answer, **more):
    return write(folder, "fill_in_blank", number, question, answer, **more)


def choose(folder, number, question, answer, *choices, **more):
    return write(folder, "choose_txt", number, question, answer, choices=list(choices), **more)


def made(folder, out, split="val", **more):
    source = read_iconqa(folder, split=split, seed=more.get("seed", 0))
    record = preparing.prepare(IconQa(out=out, **more), source, progress=False)
    return {row["sample_id"]: row for row in samples.load(out)}, record


def reasons(record):
    return {entry["sample"]: entry["reason"] for entry in record["left_out"]}


def test_image_files_that_changed_are_others(tmp_path):
    fill(tmp_path, 1, "What?", "x")
    before = read_iconqa(tmp_path).images
    image = next(tmp_path.rglob("fill_in_blank/1/image.png"))
    os.utime(image, ns=(1, 1))
    assert read_iconqa(tmp_path).images != before


def test_two_problems_with_one_question(tmp_path):
    first = fill(tmp_path, 20, DOTS, "13")
    second = fill(tmp_path, 3, f" {DOTS} ", "57")
    rows, record = made(tmp_path, tmp_path / "out")
    assert sorted(rows) == ["val/fill_in_blank/20", "val/fill_in_blank/3"]
    row = rows["val/fill_in_blank/20"]
    assert row["question"] in ("How many dots are there, 13 or 57?", "How many dots are there, 57 or 13?")
    assert (row["category"], row["correct_answer"], row["incorrect_answer"]) == ("fill_in_blank", "13", "57")
    for column, path in (("clean_image", first), ("corrupt_image", second)):
        assert row[column].tobytes() == Image.open(path / "image.png").tobytes()
    assert record["left_out"] == []


@pytest.mark.parametrize(
    ("text", "first", "second", "unit", "expected"),
    [
        (DOTS, "3", "5", "", "How many dots are there, 3 or 5?"),
        ("What is the perimeter?", "12", "16", "yards", "What is the perimeter, 12 or 16 yards?"),
        ("The line is about (_) dice long.", "4", "2", "", "The line is about (_) dice long. Is (_) 4 or 2?"),
        ("How many are there? Estimate.", "about 30", "about 80", "", "How many are there? Estimate. Is it about 30 or about 80?"),
        ("Is the number of ovals even or odd?", "odd", "even", "", "Is the number of ovals odd or even?"),
        ("Is the number of ovals even or odd?", "even", "odd", "", "Is the number of ovals even or odd?"),
        ("Is it uneven or odd?", "even", "odd", "", "Is it uneven or odd, even or odd?"),
        ("The first picture is a sub. Which is third?", "sub", "fish", "", "The first picture is a sub. Which is third, sub or fish?"),
        ("What time is it?", "6:00 A.M.", "6:00 P.M.", "", "What time is it, 6:00 A.M. or 6:00 P.M.?"),
    ],
)
def test_questions_name_both_options(text, first, second, unit, expected):
    question = question_with(text, first, second, unit)
    assert question == expected
    left, right = option_spans(question, first, second)
    assert left < right


def test_the_answer_is_an_index_for_choices_and_text_for_blanks(tmp_path):
    choose(tmp_path, 1, "What was done?", 2, "flip", "turn", "slide")
    choose(tmp_path, 2, "What was done?", 0, "flip", "slide", "turn")
    fill(tmp_path, 1, "What was done?", "2")
    rows, record = made(tmp_path, tmp_path / "out")
    assert {name: (row["correct_answer"], row["incorrect_answer"]) for name, row in rows.items()} == {
        "val/choose_txt/1": ("slide", "flip"),
        "val/choose_txt/2": ("flip", "slide"),
    }
    assert reasons(record) == {"val/fill_in_blank/1": "no other problem has this question ('What was done?')"}


def test_each_answer_must_be_among_the_choices_of_both(tmp_path):
    choose(tmp_path, 1, DOTS, 0, "3", "5")
    choose(tmp_path, 2, DOTS, 0, "5", "7")  # its choices don't say that 3 is wrong
    choose(tmp_path, 3, DOTS, 1, "3", "7")  # 7 is no choice of the first
    choose(tmp_path, 4, DOTS, 1, "3", "5", "7")
    rows, record = made(tmp_path, tmp_path / "out")
    assert {name: row["incorrect_answer"] for name, row in rows.items()} == {"val/choose_txt/1": "5", "val/choose_txt/4": "3"}
    says = f"no other problem with this question has another answer that is among the choices of both ({DOTS!r})"
    assert reasons(record) == {"val/choose_txt/2": says, "val/choose_txt/3": says}


def test_the_same_answer_written_otherwise_is_no_partner(tmp_path):
    fill(tmp_path, 1, DOTS, "7,364")
    fill(tmp_path, 2, DOTS, "7364")
    fill(tmp_path, 3, DOTS, " 7364.0 ")
    fill(tmp_path, 4, "Even or odd?", "Even")
    fill(tmp_path, 5, "Even or odd?", "even")
    fill(tmp_path, 6, "What?", "x")
    fill(tmp_path, 7, "What?", "y")
    rows, record = made(tmp_path, tmp_path / "out")
    assert sorted(rows) == ["val/fill_in_blank/6", "val/fill_in_blank/7"]
    assert all(reason.startswith("no other problem with this question has another answer") for reason in reasons(record).values())


def test_hint_and_unit_belong_to_the_question(tmp_path):
    fill(tmp_path, 1, "How long?", "3", unit="yards")
    fill(tmp_path, 2, "How long?", "4", unit="feet")
    fill(tmp_path, 3, "How long?", "5", unit="feet", hint="Count.")
    fill(tmp_path, 4, "How long?", "6", unit="feet", hint="Count.")
    rows, record = made(tmp_path, tmp_path / "out")
    assert sorted(reasons(record)) == ["val/fill_in_blank/1", "val/fill_in_blank/2"]
    assert rows["val/fill_in_blank/3"]["question"] in ("Count. How long, 5 or 6 feet?", "Count. How long, 6 or 5 feet?")


def test_what_is_drawn_depends_on_seed_and_id_alone(tmp_path):
    for number in range(12):
        fill(tmp_path, number, DOTS, str(number))
    first, _ = made(tmp_path, tmp_path / "a")
    fill(tmp_path, 99, "How many cats are there?", "1")
    fill(tmp_path, 98, "How many cats are there?", "2")
    more, _ = made(tmp_path, tmp_path / "b")
    other, _ = made(tmp_path, tmp_path / "c", seed=1)
    assert all(more[name]["question"] == row["question"] for name, row in first.items())
    assert any(other[name]["question"] != row["question"] for name, row in first.items())
    assert len({row["correct_first"] for row in first.values()}) == 2


BROKEN = {
    "the answer is 3, not the index of one of 2 choices": {"answer": 3},
    "the answer is -1, not the index": {"answer": -1},
    "the answer is True, not the index": {"answer": True},
    "TypeError": {"answer": "5"},
    "must be text": {"choices": [1, 2]},
    "question, answer": {"question": " "},
    "KeyError: 'question'": {"question": None},
    "not a problem of choose_txt (FileNotFoundError": None,
}


@pytest.mark.parametrize("says", BROKEN)
def test_a_problem_that_cannot_be_used_is_left_out_or_stops(tmp_path, says):
    choose(tmp_path, 1, DOTS, 0, "3", "5")
    choose(tmp_path, 2, DOTS, 1, "3", "5")
    path = choose(tmp_path, 3, DOTS, 1, "3", "5") / "data.json"
    if BROKEN[says] is None:
        path.unlink()
    else:
        record = json.loads(path.read_text()) | BROKEN[says]
        path.write_text(json.dumps({name: value for name, value in record.items() if value is not None}))
    rows, record = made(tmp_path, tmp_path / "out")
    assert sorted(rows) == ["val/choose_txt/1", "val/choose_txt/2"]
    assert reasons(record)["val/choose_txt/3"].startswith("val/choose_txt/3/data.json: not a problem of choose_txt")
    assert says in reasons(record)["val/choose_txt/3"]
    with pytest.raises(SampleError, match="val/choose_txt/3: ") as caught:
        made(tmp_path, tmp_path / "strict", strict=True)
    assert says in str(caught.value)


def test_images_that_are_missing_or_alike(tmp_path):
    fill(tmp_path, 1, DOTS, "1")
    fill(tmp_path, 2, DOTS, "2")
    fill(tmp_path, 3, "How many cats?", "1", image=False)
    path = fill(tmp_path, 4, "How many cats?", "2")
    fill(tmp_path, 5, "How many cups?", "2")
    (fill(tmp_path, 6, "How many cups?", "3") / "image.png").write_bytes((path.parent / "5" / "image.png").read_bytes())
    rows, record = made(tmp_path, tmp_path / "out")
    assert sorted(rows) == ["val/fill_in_blank/1", "val/fill_in_blank/2"]
    found = reasons(record)
    assert "val/fill_in_blank/3/image.png: no such file" in found["val/fill_in_blank/3"]
    assert "val/fill_in_blank/3/image.png: no such file" in found["val/fill_in_blank/4"]
    assert "identical" in found["val/fill_in_blank/5"]


def test_problems_whose_choices_are_pictures_are_not_used(tmp_path):
    fill(tmp_path, 1, DOTS, "1")
    fill(tmp_path, 2, DOTS, "2")
    for number in (1, 2, 3):
        write(tmp_path, "choose_img", number, "Which is a cone?", 0, choices=["choice_0.png", "choice_1.png"])
    _, record = made(tmp_path, tmp_path / "out", strict=True)
    assert record["counts"] == {"fill_in_blank": 2}
    assert record["not_used"] == {"choose_img": "3 problems: the choices are pictures, which a question cannot name"}


def test_command_and_layouts(tmp_path, capsys):
    for number in (1, 2):
        fill(tmp_path, number, DOTS, str(number), split="train")
    for number, folder in enumerate([tmp_path, tmp_path / "iconqa_data", tmp_path / "iconqa_data" / "iconqa"]):
        run(IconQa(folder=folder, split="train", out=tmp_path / f"out{number}"))
    assert capsys.readouterr().out.count("2 samples (2 fill_in_blank) in") == 3
    with pytest.raises(SystemExit, match=r"^data_prep\.iconqa: .*: no folder of the split 'val'; expected:\n  iconqa_data/\n    iconqa/"):
        run(IconQa(folder=tmp_path, out=tmp_path / "out"))
    with pytest.raises(SampleError, match="absent: no such folder; expected:"):
        read_iconqa(tmp_path / "absent")
    (tmp_path / "iconqa_data/iconqa/test").mkdir()
    with pytest.raises(SampleError, match="no problem of choose_txt or fill_in_blank can be read; expected:"):
        read_iconqa(tmp_path, split="test")


@pytest.mark.skipif(not REAL.exists(), reason="the shared data is not here")
def test_the_real_problems(tmp_path):
    """All example problems by their publishers' data.json; only some pictures are at hand, so noise stands in for the others."""
    problems = [json.loads(line) for line in (REAL / "all_150_example_problems.jsonl").read_text().splitlines()]
    for number, problem in enumerate(problems):
        task, pid = re.fullmatch(r".*/(\w+)/(\d+)/data\.json", problem.pop("_path")).groups()
        path = write(tmp_path, task, pid, "", "", image=False)
        (path / "data.json").write_text(json.dumps(problem))
        real = REAL / "iconqa_data" / "iconqa" / "val" / task / pid
        if real.exists():
            assert json.loads((real / "data.json").read_text()) == problem
            (path / "image.png").write_bytes((real / "image.png").read_bytes())
        else:
            Image.fromarray(np.random.default_rng(number).integers(0, 256, (9, 9, 3)).astype(np.uint8)).save(path / "image.png")
    rows, record = made(tmp_path, tmp_path / "out")
    assert record["counts"] == {"fill_in_blank": 25, "choose_txt": 7}
    assert record["not_used"]["choose_img"].startswith("50 problems")
    assert len(rows) + len(record["left_out"]) == 100
    assert rows["val/fill_in_blank/174"]["clean_image"].size == Image.open(REAL / "iconqa_data/iconqa/val/fill_in_blank/174/image.png").size
