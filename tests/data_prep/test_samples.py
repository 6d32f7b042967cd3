"""The sample schema: option spans, what is refused and why, and the folder on disk."""

import io
import json
import os

import datasets
import numpy as np
import pytest
from PIL import Image

from data_prep.tables import schema as samples
from data_prep.tables.sample import SampleError, option_spans
from data_prep.tables.schema import FEATURES, build, fingerprint, left_out, load, problems, save, validate


def picture(value, size=(12, 10)):
    return Image.fromarray(np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8))


def make_row(number=0, **changes):
    return {
        "sample_id": f"s-{number}",
        "dataset": "test",
        "category": "colour",
        "question": "Is the ball red or blue?",
        "correct_answer": "red",
        "incorrect_answer": "blue",
        "clean_image": picture(number),
        "corrupt_image": picture(number + 1000),
    } | changes


# Option spans


@pytest.mark.parametrize(
    ("question", "correct", "incorrect", "expected"),
    [
        ("Is it red or blue?", "red", "blue", ("red@6", "blue@13")),
        ("Is it red or blue?", "blue", "red", ("blue@13", "red@6")),
        ("Is it Red or BLUE?", " red", "blue ", ("Red@6", "BLUE@13")),
        ("Is there a green or a yellow cylinder?", "green", "yellow", ("green@11", "yellow@22")),
        ("Is the red object a red or a blue one?", "red", "blue", ("red@20", "blue@29")),
        ("Is the blue and red ball, blue or red?", "red", "blue", ("red@34", "blue@26")),
        ("Is it dark red or red?", "red", "dark red", ("red@18", "dark red@6")),
        ("Is it red or dark red?", "red", "dark red", ("red@6", "dark red@13")),
        ("Is the dark red car dark red or red?", "red", "dark red", ("red@32", "dark red@20")),
        ("Is it half-open or open?", "open", "half-open", ("open@19", "half-open@6")),
        ("Is it red- or blue-coloured?", "red", "blue-coloured", ("red@6", "blue-coloured@14")),
        ("Is it an orange or an oranger fruit?", "orange", "oranger", ("orange@9", "oranger@22")),
        ("how many people, one or three?", "three", "one", ("three@24", "one@17")),
        ("Red, blue: which?", "blue", "red", ("blue@5", "Red@0")),
        ("Is it café or thé?", "thé", "café", ("thé@14", "café@6")),
        ("Is it C++ or C?", "C++", "C", ("C++@6", "C@13")),
        ("Is it light  blue or\nnavy?", "light blue", "navy", ("light  blue@6", "navy@21")),
    ],
)
def test_option_spans(question, correct, incorrect, expected):
    spans = option_spans(question, correct, incorrect)
    assert tuple(f"{question[a:b]}@{a}" for a, b in spans) == expected


@pytest.mark.parametrize(
    ("question", "correct", "incorrect", "says"),
    [
        ("Is it red or blue?", "green", "blue", "^'green' is not in the question"),
        ("Is it red or blue?", "red", "black", "^'black' is not in the question"),
        ("what is the colour", "purple", "brown", "^'purple' and 'brown' are not"),
        ("Is it redder or blue?", "red", "blue", "'red' is not"),
        ("Is it dark red?", "red", "dark red", "'red' is in the question .* only as a part of 'dark red'"),
        ("Is it red or blue?", "", "blue", "'' is not"),
        ("Is it red or blue?", "red", "Red ", "the two answers are the same: 'red'"),
    ],
)
def test_option_spans_say_which_answer_is_absent(question, correct, incorrect, says):
    with pytest.raises(SampleError, match=says):
        option_spans(question, correct, incorrect)


def test_option_spans_never_overlap_and_hold_the_options():
    words = ["red", "dark red", "blue", "dark", "Is", "the", "or", "ball"]
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(2000):
        question = " ".join(rng.choice(words, 7)) + "?"
        correct, incorrect = (str(word) for word in rng.choice(words[:4], 2, replace=False))
        try:
            (a, b), (c, d) = option_spans(question, correct, incorrect)
        except SampleError:
            continue
        found += 1
        assert b <= c or d <= a
        assert (question[a:b], question[c:d]) == (correct, incorrect)
        assert option_spans(question, incorrect, correct) == ((c, d), (a, b))
    assert found > 300


# One row


def test_a_good_row_has_no_problems():
    assert problems(build([make_row()])[0]) == []


def stored_row(**changes):
    return dict(build([make_row()])[0]) | changes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"correct_answer": " "}, "correct_answer is empty"),
        ({"incorrect_answer": ""}, "incorrect_answer is empty"),
        ({"question": ""}, "question is empty"),
        ({"sample_id": ""}, "sample_id is empty"),
        ({"category": None}, "category is None, not text"),
        ({"incorrect_answer": "RED "}, "the two answers are the same"),
        ({"incorrect_answer": "green"}, "'green' is not in the question"),
        ({"correct_first": False}, "correct_first is False"),
        ({"corrupt_question": "Is the ball red or blue?"}, "corrupt_question equals"),
        ({"clean_image": None}, "clean_image is missing"),
        ({"corrupt_image": {"bytes": b"nonsense", "path": None}}, "corrupt_image does not decode"),
        ({"clean_image": picture(1).convert("L")}, "clean_image has mode L, not RGB"),
        ({"object_mask": Image.new("L", (10, 12), 255)}, "object_mask is 10 x 12 pixels, clean_image 12 x 10"),
        ({"object_mask": Image.new("RGB", (12, 10), "white")}, "object_mask has mode RGB"),
        ({"object_mask": Image.new("L", (12, 10), 1)}, "no pixel above 127"),
        ({"object_box": [1, 2, 3]}, "object_box has 3 numbers"),
        ({"object_box": [0, 0, 13, 4]}, "not a box inside"),
        ({"object_box": [4, 0, 4, 4]}, "not a box inside"),
        ({"clean_attributes": "{}"}, "clean_attributes is not a JSON list"),
        ({"corrupt_attributes": "[1"}, "corrupt_attributes is not a JSON list"),
    ],
)
def test_each_fault_of_a_row_is_one_problem(changes, says):
    found = problems(stored_row(**changes))
    assert len(found) == 1
    assert says in found[0]


def test_a_row_without_columns_names_them():
    row = stored_row()
    del row["noun"], row["object_box"]
    assert problems(row) == ["columns missing: noun, object_box"]


# A table


def test_build_fills_the_optional_columns():
    row = build([make_row(question="Is the ball blue or red?")])[0]
    assert row["correct_first"] is False
    assert (row["object_mask"], list(row["object_box"]), row["noun"], row["clean_attributes"]) == (None, [], "", "")


def test_build_keeps_pixels_and_order_over_many_chunks():
    dataset = build(make_row(n) for n in range(600))
    assert dataset.features == FEATURES
    assert dataset["sample_id"][:] == [f"s-{n}" for n in range(600)]
    assert np.array_equal(np.asarray(dataset[599]["clean_image"]), np.asarray(picture(599)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"colour": "red"}, "unknown column: colour"),
        ({"clean_image": None}, "column missing: clean_image"),
        ({"clean_image": np.zeros((4, 4, 3), np.uint8)}, "clean_image is ndarray, not a PIL image of mode RGB"),
        ({"corrupt_image": Image.new("RGBA", (4, 4))}, "corrupt_image is a PIL image of mode RGBA"),
        ({"correct_answer": "green"}, "'green' is not in the question"),
    ],
)
def test_build_names_the_row(changes, says):
    with pytest.raises(SampleError, match=r"row 1 \(s-1\)") as caught:
        build([make_row(0), make_row(1, **changes)])
    assert says in str(caught.value)


def test_validate_lists_every_problem_by_row_and_id():
    dataset = build([make_row(0), make_row(1, incorrect_answer="RED", correct_first=True), make_row(0), make_row(3, correct_first=False)])
    with pytest.raises(SampleError) as caught:
        validate(dataset)
    assert [line.split(":")[0] for line in caught.value.problems] == ["row 1 (s-1)", "row 2 (s-0)", "row 3 (s-3)"]
    assert "already used in row 0" in str(caught.value)


def test_validate_finds_bytes_that_do_not_decode_and_goes_on():
    dataset = build([make_row(0), make_row(1)]).cast_column("clean_image", datasets.Image(decode=False))
    rows = dataset.to_list()
    rows[0]["clean_image"] = {"bytes": rows[0]["clean_image"]["bytes"][:60], "path": None}
    rows[1]["correct_first"] = False
    with pytest.raises(SampleError, match="2 problems") as caught:
        validate(datasets.Dataset.from_list(rows, features=FEATURES))
    assert "row 0 (s-0): clean_image does not decode" in caught.value.problems[0]


def test_validate_wants_the_columns_and_some_rows():
    with pytest.raises(SampleError, match="no samples"):
        validate(build([]))
    with pytest.raises(SampleError, match="column missing: noun"):
        validate(build([make_row()]).remove_columns("noun"))
    with pytest.raises(SampleError, match="unknown column: score"):
        validate(build([make_row()]).add_column("score", [1.0]))
    with pytest.raises(SampleError, match="column correct_first is"):
        validate(build([make_row()]).cast_column("correct_first", datasets.Value("string")))


# Fingerprint


def test_the_fingerprint_depends_on_content_and_order_alone(tmp_path):
    rows = [make_row(n) for n in range(3)]
    first = fingerprint(build(rows))
    assert first == fingerprint(build(rows))
    assert first == fingerprint(build([*rows, make_row(9)]).select([0, 1, 2]))
    build(rows).save_to_disk(tmp_path / "t")
    assert first == fingerprint(load(tmp_path / "t"))
    assert first == fingerprint(recompressed(build(rows)))
    others = [rows[::-1], [make_row(n, noun="ball") for n in range(3)], rows[:2]]
    pixel = rows[2]["clean_image"].copy()
    pixel.putpixel((3, 3), (1, 2, 3))
    others.append([*rows[:2], make_row(2, clean_image=pixel)])
    others.append([*rows[:2], make_row(2, object_mask=Image.new("L", (12, 10), 255))])
    assert len({first, *(fingerprint(build(other)) for other in others)}) == len(others) + 1


def recompressed(dataset):
    """The same pixels in other PNG bytes."""

    def again(row):
        return {"clean_image": {"bytes": uncompressed(row["clean_image"]), "path": None}}

    rows = dataset.cast_column("clean_image", datasets.Image(decode=False)).to_list()
    plain = [row | again(dataset[n]) for n, row in enumerate(rows)]
    assert plain[0]["clean_image"]["bytes"] != rows[0]["clean_image"]["bytes"]
    return datasets.Dataset.from_list(plain, features=FEATURES)


def uncompressed(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


# On disk


def test_save_and_load(tmp_path):
    mask = Image.new("1", (12, 10))
    mask.paste(1, (2, 3, 5, 6))
    dataset = build([make_row(0, object_mask=mask, object_box=(2, 3, 5, 6)), make_row(1, category="größe")])
    out = [{"sample": "s-7", "reason": "no image"}]
    record = save(dataset, tmp_path / "a" / "t", {"name": "test", "seed": 3, "left_out": out, "source": "x.csv"})
    back = load(tmp_path / "a" / "t")
    assert back.features == FEATURES
    assert np.array_equal(np.asarray(back[0]["object_mask"]), np.asarray(mask.convert("L")))
    assert list(back[0]["object_box"]) == [2, 3, 5, 6]
    assert back[1]["object_mask"] is None
    assert left_out(tmp_path / "a" / "t") == out
    assert record == json.loads((tmp_path / "a" / "t" / "data.json").read_text(encoding="utf-8"))
    assert record["counts"] == {"colour": 1, "größe": 1}
    assert (record["name"], record["seed"], record["source"], record["samples"]) == ("test", 3, "x.csv", 2)
    assert record["fingerprint"] == fingerprint(back)
    assert os.listdir(tmp_path / "a") == ["t"]


def test_save_replaces_a_table_but_nothing_else(tmp_path):
    save(build([make_row(0)]), tmp_path / "t", {"name": "old"})
    (tmp_path / "empty").mkdir()
    for folder in ("t", "empty"):
        save(build([make_row(1)]), tmp_path / folder, {"name": "new"})
        assert load(tmp_path / folder)["sample_id"][:] == ["s-1"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(SampleError, match="is not a sample table"):
        save(build([make_row()]), tmp_path / "mine", {"name": "x"})
    assert sorted(os.listdir(tmp_path)) == ["empty", "mine", "t"]


def test_a_save_that_fails_leaves_the_old_table(tmp_path, monkeypatch):
    save(build([make_row(0)]), tmp_path / "t", {"name": "old"})

    def fail(self, folder):
        os.mkdir(folder)
        raise OSError("disk full")

    monkeypatch.setattr(datasets.Dataset, "save_to_disk", fail)
    with pytest.raises(OSError, match="disk full"):
        save(build([make_row(1)]), tmp_path / "t", {"name": "new"})
    assert load(tmp_path / "t")["sample_id"][:] == ["s-0"]
    assert os.listdir(tmp_path) == ["t"]


def test_save_refuses_what_is_not_valid(tmp_path):
    with pytest.raises(SampleError, match="correct_first"):
        save(build([make_row(correct_first=False)]), tmp_path / "t", {"name": "x"})
    for provenance in ({}, {"name": "x", "left_out": [{"sample": "a"}]}):
        with pytest.raises(SampleError, match="provenance needs"):
            save(build([make_row()]), tmp_path / "t", provenance)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["", "  ", "x/../y", "/etc", "a\\b", "..", ".hidden", "a\nb"])
def test_a_data_sets_name_is_that_of_a_folder(tmp_path, name):
    with pytest.raises(SampleError, match="provenance needs" if not name else "name is not usable"):
        save(build([make_row()]), tmp_path / "t", {"name": name})
    with pytest.raises(SampleError, match="dataset"):
        save(build([make_row(dataset=name)]), tmp_path / "t", {"name": "x"})
    assert not os.listdir(tmp_path)
    build([make_row(dataset=name)]).save_to_disk(tmp_path / "t")
    with pytest.raises(SampleError, match="dataset"):
        load(tmp_path / "t")


def test_load_says_what_is_wrong_with_a_folder(tmp_path):
    with pytest.raises(SampleError, match="no sample table at"):
        load(tmp_path / "absent")
    with pytest.raises(SampleError, match="not a saved data set"):
        load(tmp_path)
    datasets.Dataset.from_dict({"a": [1]}).save_to_disk(tmp_path / "other")
    with pytest.raises(SampleError, match="columns are not those"):
        load(tmp_path / "other")
    datasets.DatasetDict({"train": build([make_row()])}).save_to_disk(tmp_path / "splits")
    with pytest.raises(SampleError, match="several splits"):
        load(tmp_path / "splits")
    save(build([make_row()]), tmp_path / "cut", {"name": "x"})
    arrow = next((tmp_path / "cut").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:200])
    with pytest.raises(SampleError, match="cannot be read"):
        load(tmp_path / "cut")
    build([make_row(correct_first=False)]).save_to_disk(tmp_path / "wrong")
    with pytest.raises(SampleError, match=r"row 0 \(s-0\): correct_first"):
        load(tmp_path / "wrong")


def test_left_out_without_a_record(tmp_path):
    build([make_row()]).save_to_disk(tmp_path / "t")
    assert left_out(tmp_path / "t") == []
    assert samples.provenance(tmp_path / "t") == {}
    with pytest.raises(SampleError, match="no sample table"):
        left_out(tmp_path / "absent")
    (tmp_path / "t" / "data.json").write_text("{")
    with pytest.raises(SampleError, match="not JSON"):
        left_out(tmp_path / "t")
