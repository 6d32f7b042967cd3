"""Labelled images of any kind: class folders and tables, questions, groups, and what cannot be used."""

import csv
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

from data_prep.attribute_folder import AttributeFolder, clean_name, read_attribute_folder, with_article
from data_prep.tables import preparing
from data_prep.tables import schema as samples
from data_prep.tables.candidates import Candidate, Source
from data_prep.tables.counterparts import image_files
from data_prep.tables.images import ImageError, open_image
from data_prep.tables.readers import run
from data_prep.tables.sample import SampleError

CARS = Path(__file__).resolve().parents[3] / "shared" / "data" / "stanford_cars"


def write_image(path, seed, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = len(mode)
    shape = (20, 30, channels) if channels > 1 else (20, 30)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8), mode).save(path)


@pytest.fixture
def birds(tmp_path):
    seed = 0
    for group, name in [
        *[("sea", "001.Black_footed_Albatross"), ("sea", "002.Laysan_Albatross"), ("sea", "045.Ivory_Gull")],
        *[("land", "107.Common_Raven"), ("land", "108.owl")],
    ]:
        for number in range(2):
            write_image(tmp_path / "birds" / group / name / f"{name[4:]}_{number}.jpg", seed := seed + 1)
    return tmp_path / "birds"


def table(tmp_path, columns, *rows, name="things.csv", delimiter=","):
    for number, row in enumerate(rows):
        path = tmp_path / row[columns.index("image")]
        if not path.exists() and path.name.startswith("i"):
            write_image(path, number)
    with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([columns, *rows])
    return tmp_path / name


def make(tmp_path, source, **options):
    """The samples and what was left out."""
    chosen = AttributeFolder(source=source, out=tmp_path / "out", **options)
    record = preparing.prepare(chosen, read_attribute_folder(chosen), progress=False)
    return samples.load(chosen.out), {entry["sample"]: entry["reason"] for entry in record["left_out"]}


def test_class_folders(birds, tmp_path):
    names = {path.parent.name: path.parent.name[4:].replace("_", " ") for path in birds.rglob("*.jpg")}
    class_of = {open_image(path).tobytes(): names[path.parent.name] for path in birds.rglob("*.jpg")}
    rows, left_out = make(tmp_path, birds, name="birds", articles=True)
    assert left_out == {}
    assert sorted(rows["sample_id"]) == sorted(path.relative_to(birds).as_posix() for path in birds.rglob("*.jpg"))
    for row in rows:
        assert class_of[row["clean_image"].tobytes()] == row["correct_answer"]
        assert class_of[row["corrupt_image"].tobytes()] == row["incorrect_answer"] != row["correct_answer"]
        options = [row["correct_answer"], row["incorrect_answer"]][:: 1 if row["correct_first"] else -1]
        first, second = (f"an {name}" if name in ("owl", "Ivory Gull") else f"a {name}" for name in options)
        assert row["question"] == f"Is this {first} or {second}?"
        assert (row["category"], row["dataset"], row["changed_attribute"]) == ("birds", "birds", "class")


def test_counterparts_come_from_the_same_group(birds, tmp_path):
    rows, _ = make(tmp_path, birds, group_by=("parent",))
    land = {"Common Raven", "owl"}
    assert len(rows) == 10
    assert all((row["correct_answer"] in land) == (row["incorrect_answer"] in land) for row in rows)


def test_files_that_are_no_samples(birds):
    (birds / "readme.txt").write_text("x")
    write_image(birds / "loose.jpg", 0)
    left_out = {e["sample"]: e["reason"] for e in read_attribute_folder(AttributeFolder(source=birds)).left_out}
    assert "not an image by its ending" in left_out.pop("readme.txt")
    assert left_out == {"loose.jpg": "it lies in no class folder"}


def test_links_in_a_circle_are_followed_once(birds, tmp_path):
    sea, land = birds / "sea", birds / "land"
    (sea / "back").symlink_to("..")
    (sea / "other").symlink_to("../land")
    (land / "other").symlink_to("../sea")
    files, left_out = image_files(birds, birds)
    here = {path.relative_to(birds).as_posix() for path in birds.glob("*/*/*.jpg")}
    there = {f"sea/other/{name.removeprefix('land/')}" for name in here if name.startswith("land")}
    there |= {f"land/other/{name.removeprefix('sea/')}" for name in here if name.startswith("sea")}
    assert set(files) == here | there  # a link to another folder is one
    reason = "a link to a folder that it lies in"
    links = ("land/other/back", "land/other/other", "sea/back", "sea/other/other")
    assert left_out == [{"sample": name, "reason": reason, "kind": "excluded"} for name in links]


def test_values_with_the_same_first_word_are_kept_on_request(tmp_path):
    source = table(tmp_path, ["image", "animal"], ["i0.png", "black cat"], ["i1.png", "black dog"])
    with pytest.raises(SampleError, match=r"no sample can be used(.|\n)*--shared-first-word keeps it"):
        make(tmp_path, source)
    rows, left_out = make(tmp_path, source, shared_first_word=True)
    assert ({row["incorrect_answer"] for row in rows}, left_out) == ({"black cat", "black dog"}, {})


def test_a_value_that_is_not_given_is_no_fault(tmp_path):
    rows = [["i0.png", "red", ""], ["i1.png", "blue", "big"], ["i2.png", "", "small"]]
    chosen = AttributeFolder(source=table(tmp_path, ["image", "colour", "size"], *rows), out=tmp_path / "out", strict=True)
    record = preparing.prepare(chosen, read_attribute_folder(chosen), progress=False)
    assert (record["samples"], [entry["kind"] for entry in record["left_out"]]) == (4, ["excluded"] * 2)


@pytest.mark.parametrize("finished", [False, True])
def test_images_of_another_root_are_not_mixed_in(tmp_path, finished, monkeypatch, capsys):
    monkeypatch.setattr(preparing, "PART", 2)
    names = [f"i{number}.png" for number in range(6)]
    for root, seed in (("A", 0), ("B", 100)):
        for number, name in enumerate(names):
            write_image(tmp_path / root / name, seed + number)
    source = table(tmp_path, ["image", "colour"], *([name, ("red", "blue")[i % 2]] for i, name in enumerate(names)))

    def run(root, stop=None):
        chosen = AttributeFolder(source=source, images_root=tmp_path / root, out=tmp_path / "out")
        found = read_attribute_folder(chosen)
        if stop:
            found.candidates[stop] = replace(found.candidates[stop], make=interrupt)
        preparing.prepare(chosen, found, progress=False)

    def interrupt():
        raise KeyboardInterrupt

    if finished:
        run("A")
    else:
        with pytest.raises(KeyboardInterrupt):
            run("A", stop=4)
    run("B")
    assert "differs in image files" in capsys.readouterr().err
    theirs = {open_image(tmp_path / "B" / name).tobytes() for name in names}
    assert {row["clean_image"].tobytes() for row in samples.load(tmp_path / "out")} == theirs
    (tmp_path / "B").rename(tmp_path / "moved")
    run("moved")
    assert "already made" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_text(birds):
    write_image(birds / "sea" / "045.Ivory_Gull" / os.fsdecode(b"\xff.jpg"), 0)
    left_out = read_attribute_folder(AttributeFolder(source=birds)).left_out
    assert left_out == [{"sample": r"'sea/045.Ivory_Gull/\udcff.jpg'", "reason": "the name is not UTF-8; rename it"}]


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("12_cats_ and  dogs", "cats and dogs"),
        ("4-door", "4-door"),
        ("2.5_l", "2.5 l"),
        ("007", "007"),
        ("Ram C/V Cargo Van Minivan 2012", "Ram C/V Cargo Van Minivan 2012"),
        ("e\u0301te\u0301", "\u00e9t\u00e9"),
    ],
)
def test_class_names(name, cleaned):
    assert clean_name(name) == cleaned


@pytest.mark.parametrize(
    ("words", "article"),
    [
        *[("owl", "an"), ("gull", "a"), ("hour glass", "an"), ("European Starling", "a"), ("unicorn", "a"), ("BMW X5", "a")],
        *[("SUV", "an"), ("8-ball", "an"), ("11th car", "an"), ("M3 Coupe", "an"), ("\u00c9lan", "an"), ("2012", "a")],
    ],
)
def test_articles(words, article):
    assert with_article(words) == f"{article} {words}"


def test_a_table_in_its_kinds_with_nouns_and_ids(tmp_path):
    columns = ["image", "colour", "noun", "sample_id"]
    values = [("red", "cup"), ("Red", "cup"), ("blue", "cup"), ("dark red", "jug"), ("red", "jug")]
    rows = [[f"i{number}.png", colour, noun, f"s{number}"] for number, (colour, noun) in enumerate(values)]
    for delimiter, name in [(",", "a.csv"), (";", "b.csv"), ("\t", "c.TSV")]:
        source = table(tmp_path, columns, *rows, name=name, delimiter=delimiter)
        question = "Is the {attribute} of this {noun} {a} or {b}?"
        made, left_out = make(tmp_path, source, question=question)
        assert left_out == {}
        by_id = {row["sample_id"]: row for row in made}
        assert {name: (row["correct_answer"], row["incorrect_answer"], row["noun"]) for name, row in by_id.items()} == {
            "s0": ("red", "blue", "cup"),
            "s1": ("red", "blue", "cup"),
            "s2": ("blue", "red", "cup"),
            "s3": ("dark red", "red", "jug"),
            "s4": ("red", "dark red", "jug"),
        }
        assert by_id["s2"]["question"] in ("Is the colour of this cup blue or red?", "Is the colour of this cup red or blue?")
        assert set(made["category"]) == {"colour"}


def test_each_column_of_a_table_is_a_category(tmp_path):
    rows = [["i0.png", "red", "cup"], ["i1.png", "blue", "cup"], ["i2.png", "red", "c/d"]]
    made, left_out = make(tmp_path, table(tmp_path, ["image", "colour", "kind"], *rows))
    assert left_out == {}
    asked = {(row["sample_id"], row["category"], row["correct_answer"]) for row in made}
    colours = {("i0.png:colour", "colour", "red"), ("i1.png:colour", "colour", "blue"), ("i2.png:colour", "colour", "red")}
    assert asked == colours | {("i0.png:kind", "kind", "cup"), ("i1.png:kind", "kind", "cup"), ("i2.png:kind", "kind", "c/d")}


def test_boxes_and_masks(tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[4:9, 6:20] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "m.png")
    rows = [
        ["i0.png", "red", "-3 2.4 12 99", ""],
        ["i1.png", "blue", "[1, 2, 3, 4]", ""],
        ["i2.png", "red", "", "masks/m.png"],
        ["i3.png", "blue", "1 2 3", ""],
        ["i4.png", "blue", "", ""],
    ]
    made, left_out = make(tmp_path, table(tmp_path, ["image", "colour", "box", "mask"], *rows))
    boxes = {row["sample_id"]: list(row["object_box"]) for row in made}
    assert boxes == {"i0.png": [0, 2, 12, 20], "i1.png": [1, 2, 3, 4], "i2.png": [6, 4, 20, 9], "i4.png": []}
    masks = {row["sample_id"]: row["object_mask"] for row in made}
    assert np.array_equal(np.asarray(masks["i2.png"]), mask)
    assert masks["i4.png"] is None
    assert "line 5: the box '1 2 3' is not four numbers" in left_out["i3.png"]


def test_first_words_must_differ(tmp_path):
    rows = [["i0.png", "Ford Ka"], ["i1.png", "Ford Mustang"], ["i2.png", "BMW M3"], ["i3.png", "Fiat"]]
    made, left_out = make(tmp_path, table(tmp_path, ["image", "model"], *rows))
    assert left_out == {}
    assert all(row["correct_answer"].split()[0] != row["incorrect_answer"].split()[0] for row in made)
    with pytest.raises(SampleError, match=r"i0\.png: alone\.csv, line 2: no counterpart: no other value in its group"):
        make(tmp_path, table(tmp_path, ["image", "model"], *rows[:2], name="alone.csv"))


def test_transparent_images_lie_on_white(tmp_path):
    for number, name in enumerate(["1f499.png", "2764.png"]):
        write_image(tmp_path / "emojis" / name, number, "RGBA")
    clear = np.zeros((20, 30, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "emojis" / "1f499.png")
    source = table(tmp_path / "emojis", ["image", "emoji"], ["1f499.png", "blue heart"], ["2764.png", "red heart"])
    made, _ = make(tmp_path, source)
    assert {row["clean_image"].getpixel((0, 0)) for row in made if row["correct_answer"] == "blue heart"} == {(255, 255, 255)}


def test_rows_that_cannot_be_used(tmp_path):
    rows = [
        ["i0.png", "red", "cup"],
        ["i1.png", "blue", "cup"],
        ["i2.png", "", "cup"],
        ["", "red", "cup"],
        ["../i0.png", "red", "cup"],
        ["/etc/i0.png", "red", "cup"],
        ["C:\\i0.png", "red", "cup"],
        ["i0.png", "blue", "cup"],
        ["i3.png", "red", "cup"],
        ["i4.png", "red", "jug", "jar"],
        ["absent.png", "blue", "cup"],
    ]
    (tmp_path / "etc").mkdir()
    source = table(tmp_path / "etc", ["image", "colour", "kind"], *rows)
    _, left_out = make(tmp_path, source, attributes=("colour",), group_by=("kind",))
    expected = {
        "i2.png": "line 4: colour empty",
        "things.csv, line 5": "line 5: image empty",
        "../i0.png": "line 6: the path '../i0.png' leaves the folder of images",
        "/etc/i0.png": "line 7: the path '/etc/i0.png' leaves",
        "C:\\i0.png": "leaves the folder of images",
        "i0.png": "line 9: its id is that of things.csv, line 2",
        "things.csv, line 11": "line 11: 4 cells for 3 columns",
        "absent.png": "absent.png: no such file",
    }
    for name, words in expected.items():
        assert words in left_out[name]
    with pytest.raises(SampleError, match="4 cells for 3 columns"):
        make(tmp_path, source, attributes=("colour",), strict=True)


def test_an_image_with_two_values_is_no_sample_and_no_counterpart(tmp_path):
    columns = ["image", "colour", "thing", "sample_id"]
    rows = [["i0.png", "red", "cup", "a"], ["i0.png", "blue", "cup", "b"], ["i0.png", "green", "jug", "c"]]
    rows += [["i1.png", "red", "cup", "d"], ["i2.png", "blue", "cup", "e"], ["i3.png", "red", "jug", "f"]]
    made, left_out = make(tmp_path, table(tmp_path, columns, *rows), attributes=("colour",), question="Is the {thing} {a} or {b}?")
    assert sorted(made["sample_id"]) == ["c", "d", "e", "f"]
    assert left_out.keys() == {"a", "b"}
    assert "the image has several values of colour: 'blue', 'red'" in left_out["a"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"question": "Is this {a}?"}, "must have {a} and {b}, once each"),
        ({"question": "Is this {size} {a} or {b}?"}, "there is no column 'size'; there are: image, colour, kind"),
        ({"attributes": ("color",)}, "there is no column 'color'"),
        ({"group_by": ("colour", "kind")}, "no column is left to ask for"),
        ({"noun": "cup"}, "no sample can be used(.|\n)*the noun 'cup' is not in the question"),
        ({"images_root": Path("absent")}, "the folder of images absent does not exist"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, says):
    source = table(tmp_path, ["image", "colour", "kind"], ["i0.png", "red", "cup"], ["i1.png", "blue", "cup"])
    with pytest.raises(SampleError, match=says):
        make(tmp_path, source, **options)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"path,colour\na,b\n", "must name columns, each once, among them `image`: 'path,colour'"),
        ("t.csv", b"image,a,a\n1,2,3\n", "each once"),
        ("t.csv", b"", "the file is empty"),
        ("t.csv", b"image,colour\n", "no rows below"),
        ("t.csv", b'image,colour\na.png,"red\n', "line 2: not a readable table"),
        ("t.csv", "image,été\n".encode("utf-16"), "not UTF-8"),
        ("t.json", b"[]", r"not a folder, \.csv or \.tsv"),
        ("t.csv", None, "no such file or folder; expected:\n  birds/"),
    ],
)
def test_a_source_that_cannot_be_read(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SampleError, match=says):
        read_attribute_folder(AttributeFolder(source=tmp_path / name))


def test_command_line(birds, tmp_path, capsys):
    run(tyro.cli(AttributeFolder, args=["--source", str(birds), "--out", str(tmp_path / "t"), "--group-by", "parent", "--limit", "3"]))
    assert "3 samples (3 birds)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"data_prep\.attribute_folder: .*no two class folders with images"):
        run(tyro.cli(AttributeFolder, args=["--source", str(birds / "sea" / "045.Ivory_Gull")]))


def test_a_stretch_of_candidates_that_all_fail(birds, tmp_path):
    def fail():
        raise ImageError("gone")

    gone = [Candidate(f"gone {number}", "birds", "nowhere", fail) for number in range(preparing.PART)]
    found = read_attribute_folder(AttributeFolder(source=birds)).candidates
    record = preparing.prepare(AttributeFolder(source=birds, out=tmp_path / "t"), Source("birds", [*gone, *found]), progress=False)
    assert (record["samples"], len(record["left_out"])) == (10, preparing.PART)


@pytest.mark.skipif(not CARS.exists(), reason="the shared devkit is not here")
def test_the_readmes_recipe_for_stanford_cars(tmp_path):
    pandas, scipy_io = pytest.importorskip("pandas"), pytest.importorskip("scipy.io")
    cars = pandas.DataFrame(scipy_io.loadmat(CARS / "devkit" / "cars_train_annos.mat", simplify_cells=True)["annotations"])
    names = pandas.Series(scipy_io.loadmat(CARS / "devkit" / "cars_meta.mat", simplify_cells=True)["class_names"], range(1, 197))
    box = (cars.filter(like="bbox") - [1, 1, 0, 0]).astype(str).agg(" ".join, axis=1)
    cars = pandas.DataFrame({"image": cars.fname, "model": cars["class"].map(names), "box": box})
    cars.to_csv(tmp_path / "all.csv", index=False)
    assert len(read_attribute_folder(AttributeFolder(source=tmp_path / "all.csv")).candidates) == 8144

    van = cars[cars.model == "Ram C/V Cargo Van Minivan 2012"]
    some = pandas.concat([cars.head(2), van.head(1)])
    some.to_csv(tmp_path / "some.csv", index=False)
    for number, name in enumerate(some.image):
        Image.new("RGB", (900, 600), (90 * number, 0, 0)).save(tmp_path / name)
    made, _ = make(tmp_path, tmp_path / "some.csv", articles=True)
    answers = {row["sample_id"]: row["correct_answer"] for row in made}
    assert answers == {"00001.jpg": "Audi TTS Coupe 2012", "00002.jpg": "Acura TL Sedan 2012", van.image.iloc[0]: van.model.iloc[0]}
    assert {tuple(row["object_box"]) for row in made if row["sample_id"] == "00001.jpg"} == {(38, 115, 569, 375)}
