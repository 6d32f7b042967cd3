"""FER-2013: folders and table, splits, the emotion of the counterpart, and what cannot be used."""

import os
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

from data_prep.fer2013 import Fer2013, read_fer2013
from data_prep.tables import preparing
from data_prep.tables import schema as samples
from data_prep.tables.images import open_image
from data_prep.tables.readers import run
from data_prep.tables.sample import SampleError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "fer2013"
ADJECTIVES = {  # the release's folder names; the order is that of the table's numbers
    **{"angry": "angry", "disgust": "disgusted", "fear": "fearful", "happy": "happy"},
    **{"sad": "sad", "surprise": "surprised", "neutral": "neutral"},
}
GROUPS = [{"happy"}, {"angry", "disgusted", "fearful", "sad"}, {"neutral", "surprised"}]


def face(rng):
    return Image.fromarray(rng.integers(0, 256, (48, 48)).astype(np.uint8))


@pytest.fixture
def images(tmp_path):
    """Folders as on Kaggle, below a folder whose name has an emotion in it."""
    rng = np.random.default_rng(0)
    root = tmp_path / "happy days" / "images"
    for split, count in [("train", 3), ("validation", 1)]:
        for folder in ADJECTIVES:
            (root / split / folder).mkdir(parents=True)
            for number in range(count):
                face(rng).save(root / split / folder / f"{number}.jpg")
    return root


def write_table(path, header="emotion,pixels,Usage", usages=("Training", "PublicTest", "PrivateTest"), lines=(), encoding="utf-8"):
    rng = np.random.default_rng(1)
    names = [name.strip() for name in header.split(",")]
    text = [header]
    for emotion in range(7):
        for usage in usages:
            cells = {"emotion": str(emotion), "pixels": " ".join(map(str, np.asarray(face(rng)).ravel())), "Usage": usage}
            text.append(",".join(cells[name] for name in names))
    path.write_text("\n".join([*text, *lines]) + "\n", encoding=encoding)
    return path


def table_of(tmp_path, source, **options):
    chosen = Fer2013(source=source, out=tmp_path / "table", **options)
    preparing.prepare(chosen, read_fer2013(source, split=chosen.split, seed=chosen.seed), progress=False)
    return samples.load(chosen.out)


def check(table, emotion_of):
    """Every sample asks for its face's emotion against its partner's, which is of another group."""
    for row in table:
        correct, incorrect = row["correct_answer"], row["incorrect_answer"]
        assert emotion_of[row["clean_image"].tobytes()] == correct == row["category"]
        assert emotion_of[row["corrupt_image"].tobytes()] == incorrect
        assert not any({correct, incorrect} <= group for group in GROUPS)
        first, second = (correct, incorrect) if row["correct_first"] else (incorrect, correct)
        assert row["question"] == f"Is this person feeling {first} or {second}?"
        assert row["noun"] == "person"


def test_image_files_that_changed_are_others(images):
    before = read_fer2013(images).images
    os.utime(images / "validation" / "happy" / "0.jpg", ns=(1, 1))  # of another split
    assert read_fer2013(images).images == before
    os.utime(images / "train" / "happy" / "0.jpg", ns=(1, 1))
    assert read_fer2013(images).images != before


def test_folders_named_by_emotion(images, tmp_path):
    table = table_of(tmp_path, images)
    check(table, {open_image(path).tobytes(): ADJECTIVES[path.parent.name] for path in images.glob("train/*/*")})
    assert sorted(table["sample_id"]) == sorted(path.relative_to(images).as_posix() for path in images.glob("train/*/*"))
    assert set(table["category"]) == set(ADJECTIVES.values())


def test_a_split_alone_and_folders_named_by_adjectives(images, tmp_path):
    for folder in ("disgust", "fear", "surprise"):
        (images / "train" / folder).rename(images / "train" / ADJECTIVES[folder].upper())
    table = table_of(tmp_path, images / "train")
    check(table, {open_image(p).tobytes(): ADJECTIVES.get(p.parent.name, p.parent.name.lower()) for p in images.glob("train/*/*")})
    assert len(table) == 21


def test_a_split_is_asked_for_by_name(images, tmp_path):
    assert len(table_of(tmp_path, images, split="validation")) == 7
    assert len(table_of(tmp_path, images, split="all")) == 28
    with pytest.raises(SampleError, match="no images of the split 'test'; splits found: train, validation"):
        read_fer2013(images, split="test")
    (images / "train").rename(images / "faces")
    with pytest.raises(SampleError, match="splits found: none; all images are taken with --split all"):
        read_fer2013(images / "faces")


def test_what_is_left_out_has_its_reason(images):
    (images / "train" / "sad" / "0.jpg").rename(images / "train" / "sad" / "Training_10371709.jpg0.jpg")
    (images / "train" / "bored").mkdir()
    face(np.random.default_rng(2)).save(images / "train" / "bored" / "1.jpg")
    source = read_fer2013(images)
    left_out = {entry["sample"]: entry["reason"] for entry in source.left_out}
    assert left_out.keys() == {"train/sad/Training_10371709.jpg0.jpg", "train/bored/1.jpg"}
    assert "augmented copy" in left_out["train/sad/Training_10371709.jpg0.jpg"]
    assert "'bored' is not named by an emotion" in left_out["train/bored/1.jpg"]
    assert len(source.candidates) == 20


def test_one_group_alone_has_no_counterparts(images):
    for folder in ADJECTIVES.keys() - {"sad", "fear"}:
        for path in (images / "train" / folder).iterdir():
            path.unlink()
    source = read_fer2013(images)
    assert not source.candidates
    assert {entry["reason"] for entry in source.left_out} == {"no face has an emotion of another group than 'negative'"}


@pytest.mark.parametrize(("header", "encoding"), [("emotion,pixels,Usage", "utf-8"), ("emotion, Usage, pixels", "utf-8-sig")])
def test_the_table(tmp_path, header, encoding):
    path = write_table(tmp_path / "fer2013.csv", header, encoding=encoding)
    names, *lines = [line.split(",") for line in path.read_text(encoding=encoding).splitlines()]
    rows = [dict(zip(map(str.strip, names), line, strict=True)) for line in lines]
    emotion_of = {}
    for row in rows:
        grey = np.array([int(number) for number in row["pixels"].split()]).reshape(48, 48, 1).repeat(3, 2)
        emotion_of[grey.astype(np.uint8).tobytes()] = list(ADJECTIVES.values())[int(row["emotion"])]
    table = table_of(tmp_path, path, split="validation")
    check(table, emotion_of)
    assert sorted(table["sample_id"]) == [f"row-{line:05d}" for line, row in enumerate(rows, 2) if row["Usage"] == "PublicTest"]
    assert len(table_of(tmp_path, path, split="all")) == 21


def test_a_table_without_usage_is_taken_whole(tmp_path):
    path = write_table(tmp_path / "train.csv", "emotion,pixels", usages=("",))
    assert len(table_of(tmp_path, path, split="all")) == 7
    with pytest.raises(SampleError, match="--split all"):
        read_fer2013(path)


def test_bad_rows_of_a_table(tmp_path):
    good = " ".join(["7"] * 2304)
    lines = [f"7,{good},Training", f"3,{good},Test2", "3,1 2", "3,1 2 3,Training", f"3,{good[:-1]}256,Training", f"3,{good[:-1]}x,Training"]
    path = write_table(tmp_path / "fer2013.csv", usages=("Training",), lines=lines)
    chosen = Fer2013(source=path, out=tmp_path / "t")
    record = preparing.prepare(chosen, read_fer2013(path), progress=False)
    left_out = {entry["sample"]: entry["reason"] for entry in record["left_out"]}
    expected = {
        "row-00009": "line 9: the emotion is '7', not a number from 0 to 6",
        "row-00010": "line 10: the Usage is 'Test2'",
        "row-00011": "line 11: 2 cells for 3 columns",
        "row-00012": "line 12: 3 pixels, not 48 x 48",
        "row-00013": "line 13: the pixels are not whole numbers from 0 to 255",
        "row-00014": "line 14: the pixels are not whole numbers from 0 to 255",
    }
    for name, words in expected.items():
        assert words in left_out[name]
    assert record["samples"] + len(left_out) == 13


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:a2\nsize 33149002\n", "is a Git LFS pointer, not the table itself"),
        ("label,image\n1,2\n", "does not name the columns emotion and pixels: 'label,image'"),
        ("emotion,pixels\n9,1 2\n", "no row can be used"),
        (None, "no such file or folder; expected:\n  images/\n    train/\n      angry"),
    ],
)
def test_a_source_that_cannot_be_read(tmp_path, content, says):
    if content is not None:
        (tmp_path / "fer2013.csv").write_text(content)
    with pytest.raises(SampleError, match=says):
        read_fer2013(tmp_path / "fer2013.csv")


def test_command_line(images, tmp_path, capsys):
    run(tyro.cli(Fer2013, args=["--source", str(images), "--out", str(tmp_path / "t"), "--limit", "1"]))
    assert "7 samples (1 " in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"data_prep\.fer2013: .*no image in a folder named by an emotion"):
        run(tyro.cli(Fer2013, args=["--source", str(tmp_path / "t")]))


@pytest.mark.skipif(not SHARED.exists(), reason="the shared faces are not here")
def test_faces_of_both_releases_and_the_table(tmp_path):
    for folder, split, count in [("msambare_names", "train", 56), ("msambare_names", "test", 21), ("kaggle_numbered/images", "train", 56)]:
        table = table_of(tmp_path, SHARED / folder, split=split)
        check(table, {open_image(p).tobytes(): ADJECTIVES[p.parent.name] for p in (SHARED / folder / split).glob("*/*")})
        assert len(table) == count
    assert len(table_of(tmp_path, SHARED / "fer2013_sample.csv", split="all")) == 28
    with pytest.raises(SampleError, match="Git LFS pointer"):
        read_fer2013(SHARED / "odd" / "lfs_pointer_test.csv")
