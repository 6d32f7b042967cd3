"""MIT-States: which folders are used, what is offered against what, and which image is the counterpart."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

from data_prep.mit_states import LISTS, MitStates, read_lists, read_mit_states, similarities
from data_prep.tables import preparing
from data_prep.tables import schema as samples
from data_prep.tables.images import open_image
from data_prep.tables.readers import run
from data_prep.tables.sample import SampleError

LISTING = Path(__file__).resolve().parents[3] / "shared" / "data" / "mit_states" / "MIT_states_raw.txt"
FOLDERS = {
    "sliced apple": 3,
    "diced apple": 2,
    "moldy apple": 2,
    "frozen apple": 1,
    "new shoes": 2,
    "old shoes": 2,
    "huge steps": 1,
    "tiny steps": 1,
    "adj apple": 1,
    "steaming apple": 1,
    "dark apple": 0,
    "states": 1,
    "broken keyboard": 1,
    "cracked keyboard": 1,
}


@pytest.fixture
def release(tmp_path):
    rng = np.random.default_rng(0)
    for folder, count in FOLDERS.items():
        (tmp_path / "images" / folder).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (1, 1, 3)).astype(np.uint8).repeat(10, 0).repeat(12, 1)
            Image.fromarray(pixels).save(tmp_path / "images" / folder / f"{number}_77.jpg")
    return tmp_path


def table_of(release, **options):
    chosen = MitStates(folder=release, out=release / "table", **options)
    read = read_mit_states(release, lists=chosen.lists, word_vectors=chosen.word_vectors, seed=chosen.seed)
    preparing.prepare(chosen, read, progress=False)
    return samples.load(chosen.out)


def test_image_files_that_changed_are_others(release):
    before = read_mit_states(release).images
    os.utime(release / "images" / "sliced apple" / "0_77.jpg", ns=(1, 1))
    assert read_mit_states(release).images != before


def test_every_sample_is_what_it_says(release):
    folder_of = {open_image(path).tobytes(): path.parent.name for path in release.rglob("*.jpg")}
    seen = set()
    for row in table_of(release):
        correct, incorrect, noun = row["correct_answer"], row["incorrect_answer"], row["noun"]
        assert folder_of[row["clean_image"].tobytes()] == f"{correct} {noun}"
        assert folder_of[row["corrupt_image"].tobytes()] == f"{incorrect} {noun}"
        assert row["sample_id"].startswith(f"{correct} {noun}/")
        this = "Is this apple" if noun == "apple" else f"Are these {noun}"
        first, second = (correct, incorrect) if row["correct_first"] else (incorrect, correct)
        assert row["question"] == f"{this} {first} or {second}?"
        seen.add((correct, incorrect, row["category"]))
    assert not {("sliced", "diced", "shape"), ("diced", "sliced", "shape")} & seen
    assert {(correct, category) for correct, _, category in seen} == {
        *[("sliced", "shape"), ("diced", "shape"), ("moldy", "colour"), ("frozen", "colour")],
        *[("new", "colour"), ("old", "colour"), ("huge", "shape"), ("tiny", "shape")],
    }


def test_what_is_left_out_has_its_reason(release):
    (release / "images" / "sliced apple" / "notes.txt").write_text("x")
    (release / "images" / "sliced apple" / ".DS_Store").write_text("x")
    entries = read_mit_states(release).left_out
    assert [entry["sample"] for entry in entries if "kind" not in entry] == ["dark apple"]  # the only fault
    left_out = {entry["sample"]: entry["reason"] for entry in entries}
    expected = {
        "sliced apple/notes.txt": "not an image by its ending",
        "dark apple": "the folder has no image",
        "states": "no blank between a state and a noun",
        "adj apple": "no particular state",
        "steaming apple": "'steaming' is in none of the lists",
        "broken keyboard": "no state of 'keyboard' may be offered against it; there are: 'broken', 'cracked'",
        "cracked keyboard": "no state of 'keyboard' may be offered against it; there are: 'broken', 'cracked'",
    }
    assert left_out.keys() == expected.keys()
    for name, words in expected.items():
        assert words in left_out[name]


def test_a_draw_depends_on_the_seed_and_the_image_alone(release):
    def draws(seed):
        return {row["sample_id"]: row["question"] for row in table_of(release, seed=seed) if row["noun"] == "apple"}

    first = draws(0)
    for path in (release / "images" / "old shoes").iterdir():
        path.unlink()
    assert draws(0) == first
    assert draws(1) != first


def test_the_images_folder_may_be_given_itself(release):
    ids = [c.sample_id for c in read_mit_states(release).candidates]
    assert [c.sample_id for c in read_mit_states(release / "images").candidates] == ids


def test_notices_lists():
    lists = read_lists(LISTS)
    assert {name: list(lists.category.values()).count(name) for name in lists.category.values()} == {
        "colour": 21,
        "shape": 23,
        "texture": 14,
    }
    similar = [
        *[("scratched", "cracked"), ("scratched", "splintered"), ("crushed", "broken"), ("splintered", "crushed"), ("cut", "torn")],
        *[("thick", "huge"), ("small", "tiny"), ("old", "rusty"), ("new", "fresh"), ("wrinkled", "crumpled"), ("windblown", "barren")],
    ]
    for one, other in similar:
        assert not lists.may_oppose(one, other)
        assert not lists.may_oppose(other, one)
    for one, other in [("scratched", "crushed"), ("large", "small"), ("thick", "thin"), ("new", "old"), ("wet", "dry")]:
        assert lists.may_oppose(one, other)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"categories": {"colour": ["old"], "shape": ["old"]}}, "'old' is listed twice"),
        ({"similar": [["moldy", "mouldy"]]}, "'mouldy' is called similar, but is in no category"),
        ({"categories": ["old"]}, "not lists of states"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, change, says):
    path = tmp_path / "lists.json"
    path.write_text(json.dumps(json.loads(LISTS.read_text()) | {"similar": []} | change))
    with pytest.raises(SampleError, match=says):
        read_lists(path)
    with pytest.raises(SampleError, match="not lists of states"):
        read_lists(tmp_path / "absent.json")


VECTORS = "apple 9 9\nsliced 2 0\nmoldy 0 1\nfrozen 0.6 0.8\n"


@pytest.mark.parametrize("header", ["", "4 2\n"])
def test_word_vectors(release, header):
    vectors = release / "vectors.txt"
    vectors.write_text(header + VECTORS)
    assert similarities(vectors, ["sliced", "moldy", "frozen", "huge"]) == pytest.approx(
        {frozenset(("sliced", "moldy")): 0.0, frozenset(("sliced", "frozen")): 0.6, frozenset(("moldy", "frozen")): 0.8}
    )
    source = read_mit_states(release, word_vectors=vectors)  # the median is 0.6: only sliced and moldy are dissimilar
    assert {c.sample_id.split("/")[0] for c in source.candidates} == {"sliced apple", "moldy apple"}
    left_out = {entry["sample"]: entry["reason"] for entry in source.left_out}
    assert "'diced' has no word vector" in left_out["diced apple"]
    assert "no state of 'apple' may be offered against it" in left_out["frozen apple"]
    assert source.provenance["most_similar"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sliced 1 2\nmoldy 1 x\n", "line 2: not a word and numbers"),
        ("sliced 0 0\n", "line 1: the vector has the length 0"),
        ("sliced 1 nan\n", "line 1: the vector has the length nan"),
        ("sliced 1 2\nmoldy 1\n", "differ in length"),
        ("apple 1 2\nsliced 1 2\n", "has vectors for 1 of the 58 listed states"),
        (None, "cannot be read"),
    ],
)
def test_word_vectors_that_cannot_be_used(release, text, says):
    if text is not None:
        (release / "vectors.txt").write_text(text)
    with pytest.raises(SampleError, match=says):
        read_mit_states(release, word_vectors=release / "vectors.txt")


def test_another_layout_says_which_was_expected(tmp_path):
    (tmp_path / "apples").mkdir()
    for folder, says in [("absent", "no such folder"), ("apples", "no folder named by a listed state")]:
        with pytest.raises(SampleError, match=says) as caught:
            read_mit_states(tmp_path / folder)
        assert "sliced apple/*.jpg" in str(caught.value)


def test_command_line(release, capsys):
    arguments = ["--folder", str(release), "--out", str(release / "t"), "--limit", "2"]
    run(tyro.cli(MitStates, args=arguments))
    assert "4 samples (2 " in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"data_prep\.mit_states: .*no such folder"):
        run(tyro.cli(MitStates, args=["--folder", str(release / "absent")]))


@pytest.mark.skipif(not LISTING.exists(), reason="the shared listing is not here")
def test_the_folders_of_the_release(tmp_path):
    for name in LISTING.read_text().splitlines():
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    source = read_mit_states(tmp_path)
    alone = {entry["sample"] for entry in source.left_out if entry["reason"].startswith("no state of")}
    assert alone == {"broken keyboard", "cracked keyboard", "shattered keyboard", "new shoes", "new tire"}
    assert len(source.candidates) == 1489 - len(alone)
    assert len(source.left_out) == 2208 - 1489 + len(alone)
