"""Tables of one's own: column names, kinds of file, and what happens to rows that cannot be used."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.pairs import Pairs, read_pairs, read_table
from data_prep.tables import schema as samples
from data_prep.tables.preparing import prepare
from data_prep.tables.sample import SampleError

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT.parent / "shared" / "data" / "sip_pairs_smoke.csv"
COLUMNS = ["clean_image", "corrupt_image", "question", "correct_answer", "incorrect_answer"]
GOOD = ["a.png", "b.png", "Is it red or blue?", "red", "blue"]


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(["a.png", "b.png", "c.png"]):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (10, 12, 3)).astype(np.uint8)).save(tmp_path / name)
    (tmp_path / "copy of a.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html><html></html>")
    mask = np.zeros((10, 12), np.uint8)
    mask[2:5, 3:9] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask.T).save(tmp_path / "turned.png")
    Image.fromarray(mask // 255).save(tmp_path / "ones.png")
    return tmp_path


def write(folder, rows, columns=COLUMNS, name="t.csv", delimiter=",", encoding="utf-8"):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([columns, *rows])
    (folder / name).write_bytes(text.getvalue().encode(encoding))
    return folder / name


def make(table, images_root=None, strict=False, **more):
    """The sample table, and what was left out."""
    options = Pairs(table=table, out=table.parent / "made", name="mine", images_root=images_root, strict=strict, **more)
    record = prepare(options, read_pairs(table, name="mine", images_root=images_root), progress=False)
    return samples.load(options.out), record["left_out"]


def test_image_files_that_changed_are_others(folder):
    table = write(folder, [GOOD])
    before = read_pairs(table).images
    os.utime(folder / "b.png", ns=(1, 1))
    assert read_pairs(table).images != before


def test_a_table_with_every_column(folder):
    columns = [*COLUMNS, "corrupt_question", "category", "mask", "noun", "sample_id"]
    cells = ["Is the ball blue or red?", "red", "blue", "Is the ball pink or green?", "colour", "mask.png", "ball", "my-7"]
    dataset, left_out = make(write(folder, [["a.png", "b.png", *cells]], columns))
    samples.validate(dataset)
    assert left_out == []
    row = dataset[0]
    texts = {"sample_id": "my-7", "dataset": "mine", "category": "colour", "noun": "ball", "corrupt_question": cells[3]}
    assert {name: row[name] for name in texts} == texts
    assert row["correct_first"] is False
    assert list(row["object_box"]) == [3, 2, 9, 5]
    assert row["clean_image"].tobytes() == Image.open(folder / "a.png").tobytes()


def test_boxes(folder):
    boxes = ["3 2 9 5", "[-1, 2.4, 100, 9]", "1 2 3", "9 2 3 5", ""]
    rows = [[*GOOD, box, mask] for box, mask in zip([*boxes, "0 0 5 5", ""], [*[""] * 5, "mask.png", "mask.png"], strict=True)]
    dataset, left_out = make(write(folder, rows, [*COLUMNS, "box", "mask"]))
    assert [list(row["object_box"]) for row in dataset] == [[3, 2, 9, 5], [0, 2, 12, 9], [], [0, 0, 5, 5], [3, 2, 9, 5]]
    assert [row["object_mask"] is None for row in dataset] == [True, True, True, False, False]
    assert [entry["sample"] for entry in left_out] == ["mine-0003", "mine-0004"]
    assert "the box '1 2 3' is not four numbers: left top right bottom" in left_out[0]["reason"]
    assert "not a box inside clean_image" in left_out[1]["reason"]


def test_the_reason_is_the_true_one(folder):
    rows = [GOOD, ["https://example.org/a.png", *GOOD[1:]], [*GOOD[:2], "Is it red or blue?", "red", "red"]]
    _, left_out = make(write(folder, rows))
    assert [entry["reason"].partition(": ")[2] for entry in left_out] == [
        "'https://example.org/a.png' is a web address, and nothing is fetched here: download the image and give its path",
        "the two answers are the same: 'red'",
    ]


@pytest.mark.parametrize(
    ("name", "delimiter", "encoding"),
    [("t.csv", ",", "utf-8"), ("t.csv", ",", "utf-8-sig"), ("t.csv", ";", "utf-8"), ("t.TSV", "\t", "utf-8-sig")],
)
def test_kinds_of_table(folder, name, delimiter, encoding):
    rows = [GOOD, [" "] * 9, ["a.png", "b.png", "Is it thé, or café?\nSay.", "thé", "CAFÉ"], GOOD]
    table = write(folder, rows, name=name, delimiter=delimiter, encoding=encoding)
    dataset, left_out = make(table)
    assert left_out == []
    assert dataset["question"][1] == "Is it thé, or café?\nSay."
    assert dataset["sample_id"][:] == ["mine-0001", "mine-0002", "mine-0003"]
    assert dataset["category"][:] == ["mine"] * 3
    assert [line for line, _ in read_table(table)] == [2, 4, 6]


def test_json_lines(folder):
    rows = [dict(zip(COLUMNS, GOOD, strict=True)), dict(zip(COLUMNS, GOOD, strict=True)) | {"id": 12, "noun": None}]
    (folder / "t.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8-sig")
    dataset, _ = make(folder / "t.jsonl")
    assert dataset["sample_id"][:] == ["mine-0001", "12"]


def test_other_column_names_and_chat_templates(folder):
    columns = ["task", "clean_image_path", "corrupt_image_path", "Clean Prompt", "corrupt_prompt", "correct_answer", "incorrect_answer"]
    chat = "USER: <image>\nIs it {}? Answer with one word. ASSISTANT:"
    cells = ["colour", "a.png", "b.png", chat.format("red or blue"), chat.format("pink or green"), "red", "blue"]
    row = make(write(folder, [cells], columns))[0][0]
    assert (row["question"], row["corrupt_question"], row["category"]) == ("Is it red or blue?", "Is it pink or green?", "colour")


def test_decomposed_accents_match_composed_ones(folder):
    assert len(make(write(folder, [["a.png", "b.png", "Is it the\u0301 or milk?", "th\u00e9", "milk"]]))[0]) == 1


def test_images_have_their_own_root(folder):
    (folder / "tables").mkdir()
    table = write(folder / "tables", [GOOD])
    assert len(make(table, images_root=folder)[0]) == 1
    with pytest.raises(SampleError, match="no sample can be used"):
        make(table)
    with pytest.raises(SampleError, match="does not exist"):
        make(table, images_root=folder / "absent")


BAD = {
    "leaves the folder of images": ["../a.png", *GOOD[1:]],
    "paths must start from": ["a.png", "/b.png", *GOOD[2:]],
    "no such file": ["absent.png", *GOOD[1:]],
    "HTML page": ["a.png", "page.jpg", *GOOD[2:]],
    "clean_image empty": ["", *GOOD[1:]],
    "correct_answer and incorrect_answer empty": [*GOOD[:3], " ", ""],
    "'green' is not in the question": [*GOOD[:3], "green", "blue"],
    "the two answers are the same": [*GOOD[:2], "Is it red or Red?", "red", "Red"],
    "identical": ["a.png", "copy of a.png", *GOOD[2:]],
    "6 cells for 5 columns": [*GOOD, "blue"],
    "incorrect_answer empty": GOOD[:4],
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_row_is_left_out_with_its_reason_or_stops(folder, reason):
    table = write(folder, [GOOD, BAD[reason], GOOD])
    dataset, left_out = make(table)
    assert dataset["sample_id"][:] == ["mine-0001", "mine-0003"]
    assert [entry["sample"] for entry in left_out] == ["mine-0002"]
    assert left_out[0]["reason"].startswith("t.csv, line 3: ")
    assert reason in left_out[0]["reason"]
    with pytest.raises(SampleError, match=r"mine-0002: t\.csv, line 3: ") as caught:
        make(table, strict=True)
    assert reason in str(caught.value)


def test_bad_optional_cells(folder):
    columns = [*COLUMNS, "mask", "sample_id", "corrupt_prompt"]
    extra = [
        ["", "x", ""],
        ["", "x", ""],
        ["turned.png", "y", ""],
        ["ones.png", "z", ""],
        ["absent.png", "w", ""],
        ["", "v", GOOD[2]],
        ["", "x", "", "more"],
        ["", "x", "", "more"],
    ]
    dataset, left_out = make(write(folder, [[*GOOD, *cells] for cells in extra], columns))
    assert dataset["sample_id"][:] == ["x"]
    says = [
        "already used in line 2",
        "10 x 12 pixels, clean_image 12 x 10",
        "no pixel above 127",
        "no such file",
        "corrupt_question equals",
        "9 cells for 8 columns",
        "9 cells for 8 columns",
    ]
    assert [entry["sample"] for entry in left_out] == [*"xyzwv", "mine-0007", "mine-0008"]
    for entry, words in zip(left_out, says, strict=True):
        assert words in entry["reason"]


def test_the_order_of_columns_and_rows_does_not_matter_for_a_row(folder):
    straight = make(write(folder, [GOOD, ["c.png", *GOOD[1:]]]))[0]
    mixed = make(write(folder, [GOOD[::-1], ["c.png", *GOOD[1:]][::-1]], COLUMNS[::-1]))[0]
    assert samples.fingerprint(straight) == samples.fingerprint(mixed)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"", "the file is empty"),
        ("t.csv", b"\xef\xbb\xbf\n \n", "the file is empty"),
        ("t.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        ("t.csv", ",".join(COLUMNS).encode(), "no rows below"),
        ("t.csv", b"image,answer\na,b\n", r"missing columns; found: image, answer\n  missing: clean_image or clean_image_path"),
        ("t.csv", ",".join([*COLUMNS, "clean_prompt"]).encode() + b"\n1,2,3,4,5,6\n", "several columns for question"),
        ("t.csv", ",".join(COLUMNS).encode() + b'\na,b,"never closed,d,e\n', "line 2: not a readable table"),
        ("t.csv", "café".encode("utf-16"), "not UTF-8"),
        ("t.xlsx", b"PK", r"must end in \.csv, \.tsv or \.jsonl"),
        ("t.jsonl", b'{"clean_image": 1}\n{"cl', "line 2: not JSON"),
        ("t.jsonl", b"[1, 2]\n", "line 1: not a JSON object"),
        ("t.jsonl", b'{"clean_image": "a"}\n', "missing columns; found: clean_image\n"),
        ("t.csv", None, "no such file"),
    ],
)
def test_a_table_that_cannot_be_read_stops(folder, name, content, says):
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(SampleError, match=says):
        make(folder / name)


def test_no_row_left(folder):
    with pytest.raises(SampleError, match="no sample can be used") as caught:
        make(write(folder, [BAD["identical"], BAD["no such file"]]))
    assert "mine-0002: t.csv, line 3: absent.png: no such file" in str(caught.value)


def test_a_mended_table_is_read_again(folder):
    assert len(make(write(folder, [GOOD, BAD["identical"]]))[0]) == 1
    assert len(make(write(folder, [GOOD, ["a.png", "c.png", *GOOD[2:]]]))[0]) == 2


def test_limit_and_scaling_of_a_mask(folder):
    table = write(folder, [[*GOOD, "mask.png", kind] for kind in "xxxyy"], [*COLUMNS, "mask", "category"])
    dataset, _ = make(table, limit=2, longest_side=6)
    assert sorted(dataset["category"]) == list("xxyy")
    row = dataset[0]
    assert (row["clean_image"].size, row["object_mask"].size, list(row["object_box"])) == ((6, 5), (6, 5), [1, 1, 5, 3])


def test_command_line_from_another_folder(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    table = write(folder, [GOOD, BAD["identical"]])

    def run(*command):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, *command], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)

    done = run(str(ROOT / "data_prep" / "pairs.py"), "--table", str(table), "--out", "t")
    assert done.returncode == 0, done.stderr
    assert "1 samples (1 t) in t\n1 left out" in done.stdout
    assert "left out t-0002: t.csv, line 3: the clean and the corrupt image are identical" in done.stderr
    assert len(samples.load(elsewhere / "t")) == 1
    assert samples.left_out(elsewhere / "t")[0]["sample"] == "t-0002"
    assert samples.provenance(elsewhere / "t")["source"] == "t.csv"

    failed = run("-m", "data_prep.pairs", "--table", str(table), "--out", "u", "--strict")
    assert failed.returncode == 1
    assert "t-0002: t.csv, line 3: " in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (elsewhere / "u").exists()


@pytest.mark.skipif(not SMOKE.exists(), reason="the shared photographs are not here")
def test_photographs_of_many_kinds(tmp_path):
    record = prepare(Pairs(table=SMOKE, out=tmp_path / "t"), read_pairs(SMOKE), progress=False)
    dataset = samples.load(tmp_path / "t")
    assert len(dataset) == 13
    assert [entry["sample"] for entry in record["left_out"]] == ["sip_pairs_smoke-0014"]
    assert "not in the question" in record["left_out"][0]["reason"]
    assert samples.fingerprint(dataset) == record["fingerprint"]
