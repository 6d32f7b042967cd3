"""VQA v2: the join of its three files, two-choice questions, answers that are no options, and what cannot be used."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.tables import schema as samples
from data_prep.tables.preparing import prepare
from data_prep.tables.readers import run
from data_prep.tables.sample import SampleError
from data_prep.vqa_v2 import VqaV2, read_vqa_v2

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "vqa_v2"
NAMES = {
    "questions": "v2_OpenEnded_mscoco_{}2014_questions.json",
    "annotations": "v2_mscoco_{}2014_annotations.json",
    "pairs": "v2_mscoco_{}2014_complementary_pairs.json",
}
COLOUR = ("What color is the cat?", "what color is the", "other")
SMILE = ("Is the man  smiling?", "is the man", "yes/no")
BIRDS = ("how many birds are there?", "how many", "number")


class Release:
    """The three files of a split, in their form."""

    def __init__(self, folder, split="train"):
        self.folder, self.split = folder, split
        self.questions, self.annotations, self.pairs = [], [], []
        (folder / f"{split}2014").mkdir()

    def question(self, image_id, text, question_type, answer_type, answer, others=()):
        """A question on a new image; returns its id. The annotators who are not named gave the first answer."""
        question_id = image_id * 1000 + 7
        given = [*[answer] * (10 - len(others)), *others]
        answers = [{"answer": word, "answer_confidence": "yes", "answer_id": number} for number, word in enumerate(given, 1)]
        self.questions.append({"image_id": image_id, "question": text, "question_id": question_id})
        joined = {"image_id": image_id, "answer_type": answer_type, "question_id": question_id}
        self.annotations.insert(0, {"question_type": question_type, "multiple_choice_answer": answer, "answers": answers, **joined})
        pixels = np.random.default_rng(image_id).integers(0, 256, (8, 9, 3)).astype(np.uint8)
        path = self.folder / f"{self.split}2014" / f"COCO_{self.split}2014_{image_id:012d}.jpg"
        Image.fromarray(pixels).save(path)
        return question_id

    def pair(self, kind, *answers, others=((), ())):
        """A complementary pair; returns the sample's id."""
        first = len(self.questions) + 1
        ids = [self.question(first + k, *kind, answers[k], others[k]) for k in (0, 1)]
        self.pairs.append(ids)
        return f"{ids[0]}-{ids[1]}"

    def write(self, **instead):
        head = {"info": {"version": "2.0"}, "license": {}, "data_subtype": f"{self.split}2014", "data_type": "mscoco"}
        tables = {
            "questions": head | {"task_type": "Open-Ended", "questions": self.questions},
            "annotations": head | {"annotations": self.annotations},
            "pairs": self.pairs,
        } | instead
        for name, table in tables.items():
            (self.folder / NAMES[name].format(self.split)).write_text(json.dumps(table))

    def made(self, **options):
        """Rows by sample id, and the reasons of what was left out."""
        self.write()
        chosen = VqaV2(folder=self.folder, split=self.split, out=self.folder / "out", **options)
        record = prepare(chosen, read_vqa_v2(chosen), progress=False)
        return {row["sample_id"]: row for row in samples.load(chosen.out)}, {e["sample"]: e["reason"] for e in record["left_out"]}

    def shows(self, image):
        """The id of the file that an image comes from."""
        files = (self.folder / f"{self.split}2014").iterdir()
        return int(next(path for path in files if Image.open(path).tobytes() == image.tobytes()).stem[-12:])


@pytest.fixture
def release(tmp_path):
    return Release(tmp_path)


def test_image_files_that_changed_are_others(release):
    release.pair(COLOUR, "black", "white")
    release.write()
    options = VqaV2(folder=release.folder)
    before = read_vqa_v2(options).images
    os.utime(release.folder / "train2014" / "COCO_train2014_000000000002.jpg", ns=(1, 1))
    assert read_vqa_v2(options).images != before


def test_a_pair_becomes_a_sample(release):
    names = {release.pair(COLOUR, "black", "white"): "other", release.pair(BIRDS, "2", "13"): "number"}
    names |= {release.pair(SMILE, "yes", "no"): "yes-no" for _ in range(12)}
    rows, left_out = release.made()
    assert left_out == {}
    assert {name: row["category"] for name, row in rows.items()} == names
    forms = {
        "other": "What color is the cat, {} or {}?",
        "number": "How many birds are there, {} or {}?",
        "yes-no": "Is the man smiling, {} or {}?",
    }
    answers = {a["image_id"]: a["multiple_choice_answer"] for a in release.annotations}
    for row in rows.values():
        clean, corrupt = release.shows(row["clean_image"]), release.shows(row["corrupt_image"])
        assert {f"{clean}007", f"{corrupt}007"} == set(row["sample_id"].split("-"))
        assert (row["correct_answer"], row["incorrect_answer"]) == (answers[clean], answers[corrupt])
        options = [answers[clean], answers[corrupt]] if row["correct_first"] else [answers[corrupt], answers[clean]]
        assert row["question"] == forms[row["category"]].format(*options)
    assert {row["correct_answer"] for row in rows.values() if row["category"] == "yes-no"} == {"yes", "no"}
    assert {row["correct_first"] for row in rows.values() if row["category"] == "yes-no"} == {True, False}


def test_question_types_as_categories_and_the_other_split(tmp_path):
    release = Release(tmp_path, "val")
    names = [release.pair(COLOUR, "black", "white"), release.pair(BIRDS, "2", "13")]
    rows, _ = release.made(categories="question_type")
    assert [rows[name]["category"] for name in names] == ["what color is the", "how many"]


def test_images_elsewhere(release, tmp_path):
    name = release.pair(COLOUR, "black", "white")
    (tmp_path / "train2014").rename(tmp_path / "coco")
    release.write()
    source = read_vqa_v2(VqaV2(folder=tmp_path, images=tmp_path / "coco"))
    assert [candidate.sample_id for candidate in source.candidates] == [name]


@pytest.mark.parametrize(
    ("kind", "answers", "reason"),
    [
        (COLOUR, ("black", "black"), "both images have the answer 'black'"),
        (COLOUR, ("black", "black and white"), "have a word in common"),
        (("What is it?", "what is", "other"), ("dog", "dogs"), "have a word in common"),
        (COLOUR, ("black", "unknown"), "'unknown' is not an option"),
        (COLOUR, ("black", "white or gray"), "'white or gray' is not an option"),
        (COLOUR, ("black", "white, gray"), "'white, gray' is not an option"),
        (COLOUR, ("black", "it is very dark blue"), "is not an option"),
        (COLOUR, ("black", "no"), "'no' is not an option for a question of the type 'other'"),
        (SMILE, ("yes", "a bit"), "'a bit' is not an option for a question of the type 'yes/no'"),
        (BIRDS, ("2", "many"), "'many' is not an option for a question of the type 'number'"),
        (("Is the cat black?", "is the", "other"), ("black", "white"), "has the answer 'black' in it"),
        (("Is it a cat or a dog?", "is it", "yes/no"), ("yes", "no"), "has options of its own"),
        (("What is it? And where?", "what is", "other"), ("cat", "dog"), "is not one question"),
    ],
)
def test_answers_and_questions_that_give_no_choice(release, kind, answers, reason):
    good, bad = release.pair(COLOUR, "black", "white"), release.pair(kind, *answers)
    rows, left_out = release.made()
    assert list(rows) == [good]
    assert list(left_out) == [bad]
    assert left_out[bad].startswith("v2_mscoco_train2014_complementary_pairs.json, pair 2: ")
    assert reason in left_out[bad]


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        ("Is the man standing or sitting?", ("sitting", "standing")),
        ("Is this an apple, or an orange?", ("apple", "orange")),
        ("is the photo black and white or color?", ("color", "black and white")),
    ],
)
def test_a_question_that_names_both_answers_stays(release, question, answers):
    rows, _ = (release.pair((question, "is the", "other"), *answers), release.made())[1]
    assert [row["question"] for row in rows.values()] == [question[0].upper() + question[1:]]


def test_the_annotators_must_agree_and_exclude_each_other(release):
    agreed = release.pair(COLOUR, "black", "white", others=[["gray"] * 7, []])
    doubted = release.pair(COLOUR, "black", "white", others=[["gray"] * 8, []])
    shared = release.pair(COLOUR, "black", "white", others=[["White "], []])
    rows, left_out = release.made()
    assert list(rows) == [agreed]
    assert "2 annotators gave 'black', fewer than 3" in left_out[doubted]
    assert "'white', the answer for image 6, was also given for image 5" in left_out[shared]
    assert sorted(release.made(agreement=2)[0]) == [agreed, doubted]
    with pytest.raises(SampleError, match="agreement is 11"):
        VqaV2(folder=release.folder, agreement=11)


def test_broken_records(release):
    good = release.pair(COLOUR, "black", "white")
    release.pairs += [good_ids := release.pairs[0][::-1], [1007], [1007, "2007"], [1007, 99007], 5]
    names = {what: release.pair(COLOUR, "black", "white") for what in ("image", "text", "type", "answers", "annotation", "file", "kind")}
    question = {what: next(q for q in release.questions if q["question_id"] == int(n.split("-")[1])) for what, n in names.items()}
    annotation = {what: next(a for a in release.annotations if a["question_id"] == question[what]["question_id"]) for what in names}
    annotation["image"]["image_id"] = 99
    question["text"]["question"] = "What color is the dog?"
    annotation["type"]["answer_type"] = "number"
    del annotation["answers"]["answers"]
    release.annotations.remove(annotation["annotation"])
    annotation["kind"]["answer_type"] = "essay"
    next((release.folder / "train2014").glob(f"*{question['file']['image_id']:012d}.jpg")).unlink()
    release.questions += [{"question": "Who?"}, dict(release.questions[2])]
    rows, left_out = release.made()
    assert list(rows) == [good]
    says = {
        "-".join(map(str, good_ids)): "pair 2: the same as pair 1",
        "1007": "pair 3: not two question ids",
        "1007-2007": "pair 4: not two question ids",
        "1007-99007": "pair 5: the question 99007 has no text",
        "5": "pair 6: not two question ids",
        "None": "questions 17: no question_id",
        **{
            names["image"]: "is on image 4, its annotation on 99",
            names["text"]: "two questions: 'What color is the cat?' and 'What color is the dog?'",
            names["type"]: "two types: 'other', 'what color is the' and 'number', 'what color is the'",
            names["answers"]: "lacks something (KeyError('answers'))",
            names["annotation"]: "has no annotation",
            names["file"]: f"there is no image of the id {question['file']['image_id']}",
            names["kind"]: "the answer type 'essay' is not one of yes/no, number, other",
        },
    }
    for name, words in says.items():
        assert words in left_out.pop(name)
    assert list(left_out.values()) == ["v2_OpenEnded_mscoco_train2014_questions.json, questions 18: its question_id is already used"]


def test_files_of_another_form(release, tmp_path):
    release.pair(COLOUR, "black", "white")
    for name, table, says in [
        ("questions", [], 'not a file of VQA v2, {"questions": [...], ...}'),
        ("annotations", {"annotations": {}}, 'not a file of VQA v2, {"annotations": [...], ...}'),
        ("pairs", {}, "not a list of pairs of question ids"),
    ]:
        release.write(**{name: table})
        with pytest.raises(SampleError, match=re.escape(says)):
            read_vqa_v2(VqaV2(folder=tmp_path))
    release.write()
    (tmp_path / NAMES["pairs"].format("train")).write_text("[[1, 2]")
    with pytest.raises(SampleError, match=r"complementary_pairs\.json: not JSON"):
        read_vqa_v2(VqaV2(folder=tmp_path))
    for wrong in (VqaV2(folder=tmp_path, split="val"), VqaV2(folder=tmp_path / "absent")):
        with pytest.raises(SampleError, match=r"no such file; expected:\n  vqa_v2/\n    v2_OpenEnded"):
            read_vqa_v2(wrong)
    with pytest.raises(SampleError, match=r"expected:\n  images/"):
        read_vqa_v2(VqaV2(folder=tmp_path, images=tmp_path / "absent"))


def test_command_line(release, capsys):
    release.pair(COLOUR, "black", "white")
    bad = release.pair(COLOUR, "black", "black")
    release.write()
    run(VqaV2(folder=release.folder, out=release.folder / "out"))
    said = capsys.readouterr()
    assert said.out.startswith("1 samples (1 other) in ")
    assert f"left out {bad}: v2_mscoco_train2014_complementary_pairs.json, pair 2: " in said.err
    run(VqaV2(folder=release.folder, out=release.folder / "strict", strict=True))  # left out by design
    release.pairs.append([1, 2])
    release.write()
    with pytest.raises(SystemExit, match=r"^data_prep\.vqa_v2: 1-2: .*the question 1 has no text"):
        run(VqaV2(folder=release.folder, out=release.folder / "strict", strict=True))


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_the_form_of_a_genuine_record(release):
    """A partner is made for the one record."""
    for name in ("questions", "annotations"):
        published = json.loads((SHARED / NAMES[name].format("train")).read_text())
        getattr(release, name).extend(published[name])
    release.pairs.append([458752000, release.question(12, "What is this photo taken looking through?", "what is this", "other", "window")])
    Image.new("RGB", (8, 8), "red").save(release.folder / "train2014" / "COCO_train2014_000000458752.jpg")
    rows, left_out = release.made()
    assert left_out == {}
    options = [[row["correct_answer"], row["incorrect_answer"]] for row in rows.values()]
    assert sorted(options[0]) == ["net", "window"]
