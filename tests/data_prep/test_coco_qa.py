"""COCO-QA: its two forms, its machine-made questions, partners, and what cannot be used."""

import csv
import json
import os
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import coco_qa
from data_prep.coco_qa import CocoQa, read_coco_qa
from data_prep.tables import schema as samples
from data_prep.tables.coco import find_images, nouns
from data_prep.tables.preparing import prepare
from data_prep.tables.readers import run
from data_prep.tables.sample import SampleError
from data_prep.wording.coco_qa import mended, plain

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_qa"
HEADER = ["", "train_image_id_count", "question_count", "answer_count"]
BUS = "what is the color of the bus"
COLOURS = [(1, BUS, "red"), (2, BUS, "blue"), (3, BUS, "green")]


def picture(image_id, size=(12, 10)):
    return Image.fromarray(np.random.default_rng(image_id).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "train2014").mkdir(parents=True)
    for image_id in range(1, 10):
        picture(image_id).save(tmp_path / "images" / "train2014" / f"COCO_train2014_{image_id:012d}.jpg")
    return tmp_path


def write(folder, rows, name="color_coco_qa.csv"):
    (folder / "tables").mkdir(exist_ok=True)
    with (folder / "tables" / name).open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *([number, *row] for number, row in enumerate(rows))])
    return folder / "tables"


def made(folder, source, **options):
    """Rows by sample id, and the reasons of what was left out."""
    chosen = CocoQa(source=source, images=folder / "images", out=folder / "out", **options)
    record = prepare(chosen, read_coco_qa(chosen), progress=False)
    return {row["sample_id"]: row for row in samples.load(chosen.out)}, {e["sample"]: e["reason"] for e in record["left_out"]}


def shows(image, folder):
    """The id of the file that an image comes from."""
    return next(i for i, path in find_images(folder / "images").items() if Image.open(path).tobytes() == image.tobytes())


def test_image_files_that_changed_are_others(folder):
    options = CocoQa(source=write(folder, COLOURS), images=folder / "images")
    before = read_coco_qa(options).images
    os.utime(folder / "images" / "train2014" / "COCO_train2014_000000000009.jpg", ns=(1, 1))  # no question is about it
    assert read_coco_qa(options).images == before
    os.utime(folder / "images" / "train2014" / "COCO_train2014_000000000002.jpg", ns=(1, 1))
    assert read_coco_qa(options).images != before


def test_colours_counts_and_locations(folder):
    write(folder, COLOURS)
    write(folder, [(1, "how many cats is laying on a bed", "two"), (2, "how many cats in a sink", "three")], "count_coco_qa.csv")
    source = write(folder, [(5, "where is the cat", "sink"), (6, "where is cat laying", "bed")], "location_coco_qa.csv")
    rows, left_out = made(folder, source)
    assert left_out == {}
    assert {name: row["category"] for name, row in rows.items()} == {
        **{f"colour-{line}": "colour" for line in (2, 3, 4)},
        **{f"{category}-{line}": category for category in ("count", "location") for line in (2, 3)},
    }
    answers = {1: "red", 2: "blue", 3: "green"}
    for image_id, answer in answers.items():
        row = rows[f"colour-{image_id + 1}"]
        other = shows(row["corrupt_image"], folder)
        options = [answer, answers[other]] if row["correct_first"] else [answers[other], answer]
        assert (shows(row["clean_image"], folder), row["correct_answer"]) == (image_id, answer)
        assert row["question"] == "What is the color of the bus, {} or {}?".format(*options)
        assert (row["noun"], row["changed_attribute"], row["object_mask"], list(row["object_box"])) == ("bus", "colour", None, [])
    assert re.fullmatch("How many cats are laying on a bed, (two or three|three or two)[?]", rows["count-2"]["question"])
    assert re.fullmatch("How many cats are in a sink, (two or three|three or two)[?]", rows["count-3"]["question"])
    assert re.fullmatch("Where is the cat, the (sink or the bed|bed or the sink)[?]", rows["location-2"]["question"])
    assert shows(rows["location-2"]["corrupt_image"], folder) == 6


def test_the_original_four_files(folder):
    rows = [*COLOURS, (4, "what is the man riding", "horse"), (5, "how many dogs in a car", "two"), (6, "how many dogs in a car", "one")]
    kinds = [2, 2, 2, 0, 1, 1, 7]
    rows.append((7, BUS, "red"))
    source = folder / "train"
    source.mkdir()
    for name, column in zip(("img_ids", "questions", "answers"), zip(*rows, strict=True), strict=True):
        (source / f"{name}.txt").write_text("\n".join(map(str, column)) + "\n")
    (source / "types.txt").write_text("\n".join(map(str, kinds)) + "\n")
    found, left_out = made(folder, source)
    assert sorted(found) == ["colour-1", "colour-2", "colour-3", "count-5", "count-6"]
    assert left_out == {"line 7": "types.txt, line 7: the type is '7', not 0, 1, 2 or 3"}
    (source / "answers.txt").write_text("red\n")
    with pytest.raises(SampleError, match=r"different numbers of lines \(img_ids\.txt 7, questions\.txt 7, answers\.txt 1"):
        made(folder, source)


@pytest.mark.parametrize("name", ["COCO_train2014_{:012d}.jpg", "COCO_val2014_{:012d}.jpg", "COCO_QA{:012d}.jpg", "{:012d}.jpg"])
def test_names_of_images(folder, name):
    for path in find_images(folder / "images").values():
        path.unlink()
    for image_id in (1, 2, 3):
        picture(image_id).save(folder / "images" / name.format(image_id))
    (folder / "images" / "000000000001.txt").write_text("no image")
    (folder / "images" / "COCO_train2014_1.jpg").write_text("no id")
    assert len(made(folder, write(folder, COLOURS))[0]) == 3


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((4, BUS, "bathroom"), "the answer 'bathroom' is not a colour that is used"),
        ((4, "what is the color of the orange", "orange"), "the answer 'orange' is in the question"),
        ((4, "how many different color bus", "red"), "the question is not 'what is the color of the ...'"),
        ((1, BUS, "red"), "the image already has this question: color_coco_qa.csv, line 2"),
        ((99, BUS, "red"), "there is no image of the id 99"),
        ((4, "what is the color of the moon", "white"), "no other image has a question about 'moon' with another answer"),
        (("x", BUS, "red"), "needs an image's id"),
        ((4, BUS, ""), "needs an image's id"),
        ((4, BUS, "red", "white"), "more cells than columns"),
    ],
)
def test_what_is_left_out(folder, row, reason):
    rows, left_out = made(folder, write(folder, [*COLOURS, row]))
    assert sorted(rows) == ["colour-2", "colour-3", "colour-4"]
    assert list(left_out) == ["colour-5"]
    assert left_out["colour-5"].startswith("color_coco_qa.csv, line 5: ")
    assert reason in left_out["colour-5"]


def test_a_question_with_several_answers_is_left_out_wholly(folder):
    rows, left_out = made(folder, write(folder, [*COLOURS, (1, BUS, "white"), (2, BUS, "bathroom")]))
    assert sorted(rows) == ["colour-3", "colour-4"]
    assert [left_out[name].partition(": ")[2] for name in ("colour-2", "colour-5")] == [
        "the image has this question with several answers: 'red', 'white'"
    ] * 2
    assert "not a colour" in left_out["colour-6"]


def test_the_partner_has_the_most_similar_question(folder):
    rows = [
        (1, "where is the black cat sleeping", "sink"),
        (2, "where is the cat", "bed"),
        (3, "where is the black cat sleeping", "chair"),
        (4, "where is the black dog sleeping", "bed"),
        (5, "where is the big black cat sleeping", "sink"),
    ]
    found, left_out = made(folder, write(folder, rows, "location_coco_qa.csv"))
    partners = {name: shows(row["corrupt_image"], folder) for name, row in found.items()}
    assert partners["location-2"] == 3
    assert partners["location-4"] == 1
    assert partners["location-6"] == 3
    assert list(left_out) == ["location-5"]  # the only dog
    found, left_out = made(folder, write(folder, rows, "location_coco_qa.csv"), same_question=True)
    assert sorted(found) == ["location-2", "location-4"]
    assert "no other image has the question 'where is the big black cat sleeping'" in left_out["location-6"]


@pytest.mark.parametrize(
    ("one", "other"),
    [("kitchen", "room"), ("room", "bathroom"), ("shop", "store"), ("sink", "kitchen"), ("fridge", "refrigerator"), ("pen", "zoo")],
)
def test_options_that_may_both_be_true_are_not_offered(folder, one, other):
    source = write(folder, [(1, "where is the cat", one), (2, "where is the cat", other)], "location_coco_qa.csv")
    with pytest.raises(SampleError, match="no sample can be used"):
        made(folder, source)


def test_no_option_is_given_away_by_the_question(folder):
    source = write(folder, [(1, "how many cats in a box with one dog", "two"), (2, "how many cats in a box", "one")], "count_coco_qa.csv")
    rows, left_out = made(folder, source)
    assert list(rows) == ["count-3"]
    assert "no other image" in left_out["count-2"]


def test_draws_depend_on_the_seed_and_the_sample_alone(folder):
    rows = [(image_id, BUS, answer) for image_id, answer in zip(range(1, 9), ["red", "blue", "green", "gray"] * 2, strict=True)]
    first = made(folder, write(folder, rows))[0]
    again = made(folder, write(folder, [*rows[:-1], (9, "what is the color of the cat", "gray"), *rows[-1:]]))[0]
    for name in (f"colour-{line}" for line in range(2, 9)):  # the last bus has another line, and so another name
        assert first[name]["question"] == again[name]["question"]
    other = made(folder, write(folder, rows), seed=1)[0]
    assert any(first[name]["question"] != other[name]["question"] for name in first)


WORDINGS = {
    # colour: as it is
    ("colour", "what is the color of the buses"): "What is the color of the buses|buses",
    # count: plural, a verb, and the tokens of the Penn Treebank
    ("count", "how many cat is laying on the dog 's bed"): "How many cats are laying on the dog's bed|cats",
    ("count", "how many giraffes walking near a hut"): "How many giraffes are walking near a hut|giraffes",
    ("count", "how many person in a red car"): "How many people are in a red car|people",
    ("count", "how many women wearing hats is sitting down"): "How many women wearing hats are sitting down|women",
    ("count", "how many boats anchored by ropes"): "How many boats anchored by ropes|boats",
    ("count", "how many young men sit on a bench , talking"): "How many young men sit on a bench, talking|men",
    ("count", "how many stuffed teddy bear"): "How many stuffed teddy bears are there|teddy bears",
    ("count", "how many dogs was by a `` stop '' sign ,"): 'How many dogs were by a "stop" sign|dogs',
    # location: "the", and the verb's number
    ("location", "where is the black and white cat laying down"): "Where is the black and white cat laying down|cat",
    ("location", "where is woman sitting"): "Where is the woman sitting|woman",
    ("location", "where is two sheep standing"): "Where are two sheep standing|sheep",
    ("location", "where are the man and woman"): "Where are the man and woman|man",
    ("location", "where is elephants eating ,"): "Where are elephants eating|elephants",
    ("location", "where is his dog"): "Where is his dog|dog",
}
BEYOND_MENDING = {
    ("colour", "what is the color of the red bus"): "the question is not",
    ("colour", "where are the buses"): "the question is not",
    ("count", "where are the cats"): "the question is not",
    ("count", "how many story white is building"): "no thing",
    ("count", "how many slices of pizza are there"): "no thing",
    ("count", "how many man decorates the cake"): "no thing",
    ("count", "how many teenager 's studying"): "no thing",
    ("count", "how many people that are crossing"): "no verb",
    ("count", "how many"): "no thing",
    ("location", "where did the sandwich wrap"): "the question is not",
    ("location", "where is"): "no thing",
    ("location", "where is the dog 's reflection"): "no thing",
    ("location", "where is the person wearing a shirt is making food"): "a second 'is'",
    ("location", "where are the cake with frosting"): "'are' with the singular 'cake'",
    ("location", "where is the cat looking at it '' s reflection"): "a quotation mark without",
}


@pytest.mark.parametrize(("category", "tokens"), WORDINGS)
def test_mended_questions(category, tokens):
    wording = mended(category, tokens)
    assert f"{wording.text}|{wording.noun}" == WORDINGS[category, tokens]


@pytest.mark.parametrize(("category", "tokens"), BEYOND_MENDING)
def test_questions_beyond_mending(category, tokens):
    with pytest.raises(SampleError, match=BEYOND_MENDING[category, tokens]):
        mended(category, tokens)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("the dog 's `` big '' bed , red", 'the dog\'s "big" bed, red'),
        ("they do n't see the players ' hats", "they don't see the players' hats"),
        ("a sign -lrb- old -rrb- for $ 5 ; cheap", "a sign (old) for $5; cheap"),
        ("rock 'n roll", "rock 'n roll"),
    ],
)
def test_tokens_become_plain_text(tokens, text):
    assert plain(tokens) == text


def test_words_for_objects():
    found = {word: (nouns()[word].singular, nouns()[word].category) for word in ("men", "teddy bears", "buses", "skis", "sheep", "ski")}
    assert found == {
        "men": ("man", "person"),
        "teddy bears": ("teddy bear", "teddy bear"),
        "buses": ("bus", "bus"),
        "skis": ("ski", "skis"),
        "sheep": ("sheep", "sheep"),
        "ski": ("ski", "skis"),
    }
    assert len({noun.category for noun in nouns().values()}) == 80


def instances(folder, annotations, size=(12, 10), name="instances.json"):
    table = {
        "images": [{"id": image_id, "width": size[0], "height": size[1]} for image_id in (1, 2, 3, 500)],
        "categories": [{"supercategory": "vehicle", "id": 6, "name": "bus"}, {"supercategory": "vehicle", "id": 3, "name": "car"}],
        "annotations": [
            {"id": number, "iscrowd": 0, "area": 1.0, "segmentation": [], **annotation} for number, annotation in enumerate(annotations)
        ],
    }
    (folder / name).write_text(json.dumps(table))
    return folder / name


def test_mask_and_box_of_an_object_that_is_alone(folder):
    square = [2.0, 3.0, 5.0, 3.0, 5.0, 6.0, 2.0, 6.0]
    annotations = [
        {"image_id": 1, "category_id": 6, "bbox": [1.6, 2.9, 4.2, 3.9], "segmentation": [square]},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]},
        {"image_id": 2, "category_id": 6, "bbox": [0, 0, 4, 4]},
        {"image_id": 2, "category_id": 6, "bbox": [4, 4, 4, 4]},
        {"image_id": 3, "category_id": 6, "bbox": [0, 0, 4, 4], "iscrowd": 1, "segmentation": {"counts": [0, 120], "size": [10, 12]}},
        {"image_id": 500, "category_id": 6, "bbox": "broken, but not of ours"},
    ]
    rows, _ = made(folder, write(folder, COLOURS), instances=instances(folder, annotations))
    assert list(rows["colour-2"]["object_box"]) == [1, 2, 6, 7]
    expected = np.zeros((10, 12), np.uint8)
    expected[3:7, 2:6] = 255
    np.testing.assert_array_equal(np.asarray(rows["colour-2"]["object_mask"]), expected)
    for name in ("colour-3", "colour-4"):
        assert (rows[name]["object_mask"], list(rows[name]["object_box"])) == (None, [])


def test_objects_that_do_not_fit(folder):
    box = {"image_id": 1, "category_id": 6, "bbox": [1, 2, 3, 4]}
    _, left_out = made(folder, write(folder, COLOURS), instances=instances(folder, [box], size=(120, 100)))
    assert "the image is 12 x 10 pixels, its objects are given for 120 x 100" in left_out["colour-2"]
    _, left_out = made(folder, write(folder, COLOURS), instances=instances(folder, [box | {"bbox": [1, 2]}]))
    assert "the bus of image 1 has no readable place" in left_out["colour-2"]
    for content, says in [("{}", "not COCO instances"), ("[", "not COCO instances"), (None, "no such file")]:
        path = folder / "other.json"
        if content:
            path.write_text(content)
        else:
            path.unlink()
        with pytest.raises(SampleError, match=says):
            made(folder, write(folder, COLOURS), instances=path)
    (folder / "none.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(SampleError, match="has none of the images"):
        made(folder, write(folder, COLOURS), instances=folder / "none.json")


def test_another_layout_is_said_with_the_right_one(folder):
    source = write(folder, COLOURS)
    for wrong in (folder / "absent", folder / "images"):
        with pytest.raises(SampleError, match=r"expected:\n  Datasets/\n    color_coco_qa\.csv"):
            read_coco_qa(CocoQa(source=wrong, images=folder / "images"))
    for wrong in (folder / "absent", source):
        with pytest.raises(SampleError, match=r"expected:\n  images/"):
            read_coco_qa(CocoQa(source=source, images=wrong))
    (source / "color_coco_qa.csv").write_text("image,question,answer\n1,2,3\n")
    with pytest.raises(SampleError, match="there is no column 'train_image_id_count'; there are: image, question, answer"):
        read_coco_qa(CocoQa(source=source, images=folder / "images"))
    (source / "color_coco_qa.csv").write_bytes(",".join(HEADER).encode() + b"\n0,1,caf\xe9,red\n")
    with pytest.raises(SampleError, match="cannot be read"):
        read_coco_qa(CocoQa(source=source, images=folder / "images"))


def test_command_line(folder, capsys):
    run(CocoQa(source=write(folder, [*COLOURS, (4, BUS, "two")]), images=folder / "images", out=folder / "out"))
    said = capsys.readouterr()
    assert said.out.startswith("3 samples (3 colour) in ")
    assert "left out colour-5: color_coco_qa.csv, line 5: the answer 'two'" in said.err
    run(CocoQa(source=folder / "tables", images=folder / "images", out=folder / "strict", strict=True))
    assert capsys.readouterr().out.endswith("1 left out, 1 of them by design (above, and in data.json)\n")
    write(folder, [*COLOURS, (99, BUS, "red")])
    with pytest.raises(SystemExit, match=r"^data_prep\.coco_qa: colour-5: color_coco_qa\.csv, line 5: there is no image of the id 99"):
        run(CocoQa(source=folder / "tables", images=folder / "images", out=folder / "strict", strict=True))


def published():
    """Line by line: category -> (image, question, answer)."""
    for name, category in [("color", "colour"), ("count", "count"), ("location", "location")]:
        with (SHARED / "palit" / "Datasets" / f"{name}_coco_qa.csv").open(newline="") as file:
            for line, (_, image, question, answer) in enumerate(csv.reader(file), 1):
                if line > 1:
                    yield f"{category}-{line}", category, int(image), question, answer


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_the_published_tables(tmp_path, monkeypatch):
    rows = {name: (category, image, question, answer) for name, category, image, question, answer in published()}
    monkeypatch.setattr(coco_qa, "find_images", lambda _: {image: tmp_path / str(image) for _, image, _, _ in rows.values()})
    monkeypatch.setattr(coco_qa, "open_image", lambda path, _: Image.new("RGB", (8, 8), tuple(int(path.name).to_bytes(3))))
    options = CocoQa(source=SHARED / "palit" / "Datasets", images=tmp_path, out=tmp_path / "out", limit=150)
    source = read_coco_qa(options)
    assert len(source.candidates) + len(source.left_out) == len(rows) == 13113 + 5711 + 4799
    by_question = defaultdict(list)
    for category, image, question, answer in rows.values():
        by_question[category, image, question].append(answer)
    several = {key for key, answers in by_question.items() if len(set(answers)) > 1}
    assert sum(key[0] == "colour" for key in several) == 90
    used = [rows[candidate.sample_id] for candidate in source.candidates]
    assert len({row[:3] for row in used}) == len(used)  # none twice
    assert not {row[:3] for row in used if row[0] != "colour"} & several
    colours = {row[3] for row in used if row[0] == "colour"}
    assert colours == {"white", "red", "black", "blue", "green", "brown", "yellow", "gray", "orange", "purple"}
    assert not any(answer in question.split() for _, _, question, answer in used)

    prepare(options, source, progress=False)
    table = samples.load(options.out)
    said = defaultdict(set)
    for category, image, _, answer in rows.values():
        said[category, image].add(answer)
    for row in table:
        category, image, question, answer = rows[row["sample_id"]]
        clean, corrupt = (int.from_bytes(bytes(row[name].getpixel((0, 0)))) for name in ("clean_image", "corrupt_image"))
        assert (row["category"], row["correct_answer"], clean) == (category, answer, image)
        assert corrupt != clean
        assert row["incorrect_answer"] in said[category, corrupt]
        assert not {"``", "''", "'s"} & set(row["question"].split())
        assert re.search(rf"\b{row['noun']}\b", row["question"])
        if category == "colour":
            assert row["question"].lower().startswith(question + ", ")
            assert row["incorrect_answer"] in by_question["colour", corrupt, question]
    assert {category: table["category"][:].count(category) for category in ("colour", "count", "location")} == dict.fromkeys(
        ("colour", "count", "location"), 150
    )
    assert 0.42 < np.mean(table["correct_first"]) < 0.58


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_published_images_and_the_original_form(tmp_path):
    images = find_images(SHARED / "palit" / "Images")
    assert sorted(images) == [220218, 458864]
    source = read_coco_qa(CocoQa(source=SHARED / "four_file_layout" / "train", images=SHARED / "palit" / "Images"))
    assert len(source.candidates) + len(source.left_out) == 75
