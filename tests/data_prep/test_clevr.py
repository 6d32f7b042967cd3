"""CLEVR: partners, questions, masks and boxes, and what happens to scenes that cannot be used."""

import ast
import copy
import csv
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import clevr
from data_prep.clevr import Clevr, approximate_box, read_clevr, read_palit, run_lengths
from data_prep.scenes.partners import Partners, Thing
from data_prep.tables import preparing
from data_prep.tables import schema as samples
from data_prep.tables.readers import run
from data_prep.tables.sample import SampleError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
WORDS = {
    "color": ["gray", "red", "blue", "green"],
    "shape": ["cube", "sphere", "cylinder"],
    "material": ["rubber", "metal"],
    "size": ["large", "small"],
}
SIDE = 48  # pixels


def thing(color, shape, material, size, x=10, y=10, **more):
    place = {"3d_coords": [0.5, -0.5, 0.7], "pixel_coords": [x, y, 10.8], "rotation": 178.9}
    return {"color": color, "shape": shape, "material": material, "size": size, **place, **more}


def write(folder, scenes, split="val", missing=()):
    """Scenes as released: images are RGBA."""
    (folder / "images" / split).mkdir(parents=True, exist_ok=True)
    (folder / "scenes").mkdir(exist_ok=True)
    records = []
    for number, things in enumerate(scenes):
        name = f"CLEVR_{split}_{number:06d}.png"
        relations = {name: [[] for _ in things] for name in ("left", "right", "front", "behind")}
        records.append({"image_filename": name, "image_index": number, "split": split, "objects": things, "relationships": relations})
        if number not in missing:
            pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 4)).astype(np.uint8)
            pixels[..., 3] = 255
            Image.fromarray(pixels).save(folder / "images" / split / name)
    path = folder / "scenes" / f"CLEVR_{split}_scenes.json"
    path.write_text(json.dumps({"info": {"split": split, "version": "1.0"}, "scenes": records}))
    return path


def read(folder, split="val", **more):
    return read_clevr(folder / "scenes" / f"CLEVR_{split}_scenes.json", folder / "images" / split, **more)


def made(source, out, **more):
    record = preparing.prepare(clevr.Clevr(out=out, **more), source, progress=False)
    return {row["sample_id"]: row for row in samples.load(out)}, record


@pytest.fixture
def pair(tmp_path):
    """Two scenes that differ in the colour of the cube."""
    ball = thing("gray", "sphere", "rubber", "small")
    write(tmp_path, [[thing("red", "cube", "metal", "large"), ball], [ball, thing("blue", "cube", "metal", "large")]])
    return tmp_path


def test_image_files_that_changed_are_others(pair):
    before = read(pair).images
    os.utime(pair / "images" / "val" / "CLEVR_val_000001.png", ns=(1, 1))
    assert read(pair).images != before


def test_a_scene_and_its_partner(pair, tmp_path):
    rows, record = made(read(pair), tmp_path / "out")
    assert list(rows) == ["CLEVR_val_000000-colour", "CLEVR_val_000001-colour"]
    row = rows["CLEVR_val_000000-colour"]
    assert row["question"] in ("Is the large metal cube red or blue?", "Is the large metal cube blue or red?")
    assert (row["category"], row["correct_answer"], row["incorrect_answer"], row["noun"]) == ("colour", "red", "blue", "cube")
    assert (row["dataset"], row["changed_attribute"]) == ("clevr", "colour")
    for column, name in (("clean_image", "CLEVR_val_000000.png"), ("corrupt_image", "CLEVR_val_000001.png")):
        with Image.open(pair / "images" / "val" / name) as image:
            assert row[column].tobytes() == image.convert("RGB").tobytes()
    assert {entry["sample"] for entry in record["left_out"]} == {
        f"CLEVR_val_00000{n}-{asked}" for n in (0, 1) for asked in ("shape", "material", "size")
    }
    assert record["left_out"][0]["reason"].startswith("CLEVR_val_scenes.json, scene 0: no object is the only one of its description")


def test_questions_of_each_attribute(tmp_path):
    base = thing("gray", "sphere", "rubber", "small")
    changes = {"color": "red", "shape": "cube", "material": "metal", "size": "large"}
    write(tmp_path, [[base], *([{**base, name: value}] for name, value in changes.items())])
    rows, _ = made(read(tmp_path), tmp_path / "out")
    form = {asked: rows[f"CLEVR_val_000000-{asked}"]["question"] for asked in clevr.KEYS}
    patterns = {
        "colour": r"Is the small rubber sphere (gray or red|red or gray)\?",
        "shape": r"Is the small gray rubber object (a sphere or a cube|a cube or a sphere)\?",
        "material": r"Is the small gray sphere made of (rubber or metal|metal or rubber)\?",
        "size": r"Is the gray rubber sphere (small or large|large or small)\?",
    }
    for asked, pattern in patterns.items():
        assert re.fullmatch(pattern, form[asked])
    assert rows["CLEVR_val_000000-shape"]["noun"] == "object"


def random_scenes(count, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda: {name: str(rng.choice(values)) for name, values in WORDS.items()}  # noqa: E731
    return [
        [thing(**draw(), x=int(rng.integers(SIDE)), y=int(rng.integers(SIDE))) for _ in range(rng.integers(1, 7))] for _ in range(count)
    ]


def fitting(things, asked, described):
    """The values of the asked attribute of the objects that a description fits."""
    return [t[asked] for t in things if all(t[name] == value for name, value in described.items() if name != asked)]


def test_the_description_fits_one_object_of_either_image_and_the_partner_is_the_nearest(tmp_path):
    scenes = random_scenes(40)
    write(tmp_path, scenes)
    rows, _ = made(read(tmp_path), tmp_path / "out")
    pictures = {Image.open(p).convert("RGB").tobytes(): int(p.stem[-6:]) for p in (tmp_path / "images/val").iterdir()}
    asked_of = Counter()
    for row in rows.values():
        key = clevr.KEYS[row["category"]]
        clean, corrupt = (scenes[pictures[row[column].tobytes()]] for column in ("clean_image", "corrupt_image"))
        words = [*row["question"].split(row["noun"])[0].split(), row["noun"]]
        described = {name: word for name, values in WORDS.items() for word in words if word in values and name != key}
        assert len(described) == 3
        assert fitting(clean, key, described) == [row["correct_answer"]]
        assert fitting(corrupt, key, described) == [row["incorrect_answer"]]
        best = min(
            distance(clean, other, key, described)
            for other in scenes
            if len(found := fitting(other, key, described)) == 1 and found != [row["correct_answer"]]
        )
        assert distance(clean, corrupt, key, described) == best
        asked_of[row["category"]] += 1
    assert min(asked_of[name] for name in clevr.KEYS) > 15


def distance(clean, other, key, described):
    """Difference in number of objects, objects that only one scene has, distance of the two objects asked about."""
    rests, places = [], []
    for things in (clean, other):
        (target,) = [t for t in things if all(t[name] == value for name, value in described.items())]
        rests.append(Counter(tuple(t[name] for name in WORDS) for t in things if t is not target))
        places.append(np.array(target["pixel_coords"][:2]))
    only = (rests[0] - rests[1]).total() + (rests[1] - rests[0]).total()
    return abs(len(clean) - len(other)), only, float(np.linalg.norm(places[0] - places[1]))


def test_what_is_drawn_depends_on_seed_and_id_alone(tmp_path):
    write(tmp_path, random_scenes(30))
    first, _ = made(read(tmp_path), tmp_path / "a")
    again, _ = made(read(tmp_path), tmp_path / "b", longest_side=0)
    other, _ = made(read(tmp_path, seed=1), tmp_path / "c", seed=1)
    assert [row["question"] for row in first.values()] == [row["question"] for row in again.values()]
    assert [row["question"] for row in first.values()] != [row["question"] for row in other.values()]
    orders = Counter(row["correct_first"] for row in first.values())
    assert min(orders.values()) > len(first) / 4


def test_kinds_fit_both_words_and_are_never_opposed():
    def scene(*things):
        return [Thing({"colour": colour, "shape": shape}, (0, 0)) for colour, shape in things]

    kinds = {"square": "rectangle"}
    scenes = [
        scene(("red", "rectangle"), ("green", "square")),  # "rectangle" fits both
        scene(("blue", "rectangle")),
        scene(("red", "square"), ("red", "circle")),
        scene(("blue", "square"), ("gray", "circle")),
    ]
    found = Partners(scenes, kinds)
    assert found.askable("colour") == {0: [1], 2: [0, 1], 3: [0, 1]}
    assert Partners(scenes).askable("colour") == {0: [0, 1], 1: [0], 2: [0, 1], 3: [0, 1]}
    assert found.askable("shape") == {}
    assert Partners(scenes).askable("shape") == {1: [0], 3: [0]}


def test_masks_of_the_scenes_are_taken(pair, tmp_path):
    path = pair / "scenes" / "CLEVR_val_scenes.json"
    content = json.loads(path.read_text())
    mask = np.zeros((SIDE, SIDE), bool)
    mask[5:11, 20:24] = True
    counts = [20 * SIDE + 5, *(6, SIDE - 6) * 3, 6, SIDE - 11 + 24 * SIDE]  # down the columns, outside first
    content["scenes"][0]["objects"][0]["mask"] = {"size": [SIDE, SIDE], "counts": counts}
    path.write_text(json.dumps(content))
    rows, record = made(read(pair), tmp_path / "out")
    row = rows["CLEVR_val_000000-colour"]
    np.testing.assert_array_equal(np.asarray(row["object_mask"]) > 127, mask)
    assert list(row["object_box"]) == [20, 5, 24, 11]
    assert rows["CLEVR_val_000001-colour"]["object_mask"] is None
    assert "approximated" in record["boxes"]


def test_compressed_run_lengths():
    """The text that pycocotools makes of a 6 x 8 mask with rows 1 to 3 of columns 2 to 4 and the last pixel set."""
    runs = run_lengths("=33000`0N")
    flat = np.repeat(np.arange(len(runs)) % 2, runs)
    mask = np.zeros((6, 8), int)
    mask[1:4, 2:5] = 1
    mask[5, 7] = 1
    np.testing.assert_array_equal(flat.reshape(8, 6).T, mask)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        ({"size": [SIDE, 40], "counts": [5]}, "not one of 48 x 48 pixels"),
        ("...", "not one of 48 x 48 pixels"),
        ({"size": [SIDE, SIDE], "counts": [10, 5]}, "runs of 15 pixels in all, not 2304"),
        ({"size": [SIDE, SIDE], "counts": [-1, 2305]}, "runs of 2304 pixels in all"),
        ({"size": [SIDE, SIDE], "counts": [float("inf")]}, "cannot be read"),
        ({"size": [SIDE, SIDE], "counts": "=33~"}, "no character of a compressed mask"),
        ({"size": [SIDE, SIDE], "counts": "=3o"}, "ends within a number"),
        ({"size": [SIDE, SIDE]}, "cannot be read"),
        ({"size": [SIDE, SIDE], "counts": [SIDE * SIDE]}, "no pixel above 127"),
    ],
)
def test_broken_masks(pair, tmp_path, mask, says):
    path = pair / "scenes" / "CLEVR_val_scenes.json"
    content = json.loads(path.read_text())
    content["scenes"][0]["objects"][0]["mask"] = mask
    path.write_text(json.dumps(content))
    _, record = made(read(pair), tmp_path / "out")
    assert record["samples"] == 1
    reason = record["left_out"][-1]
    assert reason["sample"] == "CLEVR_val_000000-colour"
    assert "scene 0: " in reason["reason"]
    assert says in reason["reason"]


GOOD = [thing("red", "cube", "metal", "large")]
BROKEN = {
    "no such file in": {"image_filename": "absent.png", "objects": GOOD},
    "is already used": {"image_filename": "CLEVR_val_000000.png", "objects": GOOD},
    "'../secret.png', not a file's name": {"image_filename": "../secret.png", "objects": GOOD},
    "'/etc/x.png', not a file's name": {"image_filename": "/etc/x.png", "objects": GOOD},
    "KeyError: 'material'": {"image_filename": "a.png", "objects": [{k: v for k, v in GOOD[0].items() if k != "material"}]},
    "an object has the attributes": {"image_filename": "a.png", "objects": [{**GOOD[0], "color": 3}]},
    "could not convert": {"image_filename": "a.png", "objects": [{**GOOD[0], "pixel_coords": ["x", 2, 3]}]},
    "coordinates [nan": {"image_filename": "a.png", "objects": [{**GOOD[0], "pixel_coords": [float("nan"), 2, 3]}]},
    "KeyError: 'image_filename'": {"objects": GOOD},
    "TypeError": ["a.png"],
}


@pytest.mark.parametrize("says", BROKEN)
def test_a_scene_that_cannot_be_used_is_left_out_or_stops(pair, tmp_path, says):
    path = pair / "scenes" / "CLEVR_val_scenes.json"
    content = json.loads(path.read_text())
    content["scenes"].insert(1, BROKEN[says])
    path.write_text(json.dumps(content))
    rows, record = made(read(pair), tmp_path / "out")
    assert len(rows) == 2
    reason = record["left_out"][0]["reason"]
    assert reason.startswith("CLEVR_val_scenes.json, scene 1: ")
    assert says in reason
    with pytest.raises(SampleError, match="scene 1: ") as caught:
        made(read(pair), tmp_path / "strict", strict=True)
    assert says in str(caught.value)


def test_a_damaged_image_leaves_its_samples_out(pair, tmp_path):
    (pair / "images" / "val" / "CLEVR_val_000001.png").write_text("<!DOCTYPE html>")
    with pytest.raises(SampleError, match=r"no sample can be used(.|\n)*CLEVR_val_000001\.png: is an HTML page"):
        made(read(pair), tmp_path / "out")


@pytest.mark.parametrize("content", ["", "[1]", '{"scenes": 3}', "{}", "[" * 100_000])
def test_a_file_that_is_no_scenes_file(pair, content):
    (pair / "scenes" / "CLEVR_val_scenes.json").write_text(content)
    with pytest.raises(SampleError, match=r"CLEVR_val_scenes\.json: not a scenes file"):
        read(pair)


def test_missing_files_say_the_layout(pair, tmp_path):
    for split, missing in (("val", "images/val: no such folder"), ("train", "images/train: no such folder")):
        if split == "val":
            (pair / "images" / "val").rename(pair / "images" / "away")
        with pytest.raises(SampleError, match=rf"{missing}; expected:\n  CLEVR_v1\.0/\n    images/val/"):
            read(pair, split)
    (pair / "images" / "away").rename(pair / "images" / "train")
    with pytest.raises(SystemExit, match=r"^data_prep\.clevr: .*CLEVR_train_scenes\.json: no such file; expected:"):
        run(Clevr(folder=pair, split="train", out=tmp_path / "out"))
    with pytest.raises(SampleError, match=r"no scene can be used; the first reasons:\n  CLEVR_val_000000\.png: .*no such file in"):
        read_clevr(pair / "scenes" / "CLEVR_val_scenes.json", pair / "scenes")


def test_command_with_other_splits_and_own_files(pair, tmp_path, capsys):
    (pair / "images" / "val").rename(pair / "images" / "valA")
    (pair / "scenes" / "CLEVR_val_scenes.json").rename(pair / "scenes" / "CLEVR_valA_scenes.json")
    run(Clevr(folder=pair, split="valA", out=tmp_path / "a"))
    run(Clevr(scenes=pair / "scenes" / "CLEVR_valA_scenes.json", images=pair / "images" / "valA", out=tmp_path / "b"))
    assert capsys.readouterr().out.count("2 samples (2 colour) in") == 2
    assert samples.fingerprint(samples.load(tmp_path / "a")) == samples.fingerprint(samples.load(tmp_path / "b"))


def test_approximate_boxes():
    ball = thing("red", "sphere", "metal", "large", x=240, y=160)  # radius 0.7 at depth 10.8, focal length 525 pixels: 34 pixels
    assert approximate_box(ball, (480, 320)) == [205, 125, 275, 195]
    assert approximate_box(ball | {"pixel_coords": [10, 310, 10.8]}, (480, 320)) == [0, 275, 45, 320]
    for lack in ({"pixel_coords": [240, 160]}, {"3d_coords": []}, {"shape": "torus"}, {"pixel_coords": [240, 160, 0]}):
        assert approximate_box(ball | lack, (480, 320)) == []
    without = copy.deepcopy(ball)
    del without["3d_coords"]
    assert approximate_box(without, (480, 320)) == []


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_approximate_boxes_against_the_exact_projection_of_a_real_scene():
    """The camera is found from the scene: depth is linear in the coordinates, and so are pixels times depth."""
    scene = json.loads((SHARED / "clevr/scenes/CLEVR_val_scenes.json").read_text())["scenes"][0]
    place, pixels = (np.array([t[key] for t in scene["objects"]]) for key in ("3d_coords", "pixel_coords"))
    ahead, depth = solve(place, pixels[:, 2])
    assert np.linalg.norm(ahead) == pytest.approx(1, abs=1e-6)
    right = np.cross(ahead, [0, 0, 1]) / np.linalg.norm(np.cross(ahead, [0, 0, 1]))
    axes, offsets = (right, np.cross(ahead, right)), []
    for axis, centre, column in zip(axes, (240, 160), (0, 1), strict=True):
        offsets.append(np.mean((pixels[:, column] - centre) * pixels[:, 2] / 525 - place @ axis))

    def project(points):
        z = points @ ahead + depth
        return [centre + 525 * (points @ axis + o) / z for axis, o, centre in zip(axes, offsets, (240, 160), strict=True)]

    np.testing.assert_allclose(np.transpose(project(place)), pixels[:, :2], atol=0.5)  # the file's are whole numbers
    sphere = np.random.default_rng(0).normal(size=(5000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    rim = np.array([[np.cos(t), np.sin(t), side] for t in np.linspace(0, 2 * np.pi, 90) for side in (-1, 1)])
    for turn in (0, 20, 45):
        a = np.deg2rad(turn)
        corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        corners = corners @ np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])
        for record in scene["objects"]:
            solid = {"sphere": sphere, "cylinder": rim, "cube": corners}[record["shape"]]
            x, y = project(np.array(record["3d_coords"]) + record["3d_coords"][2] * solid)
            exact = [x.min(), y.min(), x.max(), y.max()]
            assert overlap(exact, approximate_box(record, (480, 320))) > 0.7


def solve(places, values):
    solution = np.linalg.lstsq(np.c_[places, np.ones(len(places))], values, rcond=None)[0]
    return solution[:3], solution[3]


def overlap(a, b):
    """Intersection over union."""
    area = lambda box: max(0, box[2] - box[0]) * max(0, box[3] - box[1])  # noqa: E731
    common = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    return common / (area(a) + area(b) - common)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_the_real_scene_is_read_and_asked_about(tmp_path):
    """The genuine scene beside a copy with another colour; its picture is not at hand, so another of CLEVR's stands in."""
    content = json.loads((SHARED / "clevr/scenes/CLEVR_val_scenes.json").read_text())
    other = copy.deepcopy(content["scenes"][0])
    other["image_filename"], other["objects"][0]["color"] = "CLEVR_val_000001.png", "cyan"
    content["scenes"].append(other)
    (tmp_path / "scenes.json").write_text(json.dumps(content))
    picture = Image.open(SHARED / "clevr/images/val/CLEVR_val_000013.png")
    assert picture.mode == "RGBA"
    picture.save(tmp_path / "CLEVR_val_000000.png")
    picture.rotate(180).save(tmp_path / "CLEVR_val_000001.png")
    rows, record = made(read_clevr(tmp_path / "scenes.json", tmp_path), tmp_path / "out")
    assert {row["category"] for row in rows.values()} == {"colour"}
    row = rows["CLEVR_val_000000-colour"]
    assert row["question"] in ("Is the large rubber cylinder brown or cyan?", "Is the large rubber cylinder cyan or brown?")
    left, top, right, bottom = row["object_box"]
    assert left < 119 < right
    assert top < 131 < bottom
    assert record["counts"] == {"colour": 2}


def palit(folder, rows, columns=("", "Image_IDs", "Questions_Answers"), images=("a", "b", "c")):
    (folder / "val").mkdir(exist_ok=True)
    for number, name in enumerate(images):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "val" / f"{name}.png")
    with (folder / "clevr.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *([n, *row] for n, row in enumerate(rows))])
    return folder / "clevr.csv"


def listed(**answers):
    return str([{"question": f"Is the cube {name} of the ball?", "answer": answer} for name, answer in answers.items()])


def test_the_questions_of_palit(tmp_path):
    table = palit(tmp_path, [["a", listed(left=1, right=0)], ["b", listed(left=0, right=0)], ["c", listed(left=0, behind=1)]])
    rows, record = made(read_palit(table, tmp_path / "val"), tmp_path / "out")
    assert {name: row["correct_answer"] for name, row in rows.items()} == {"a-00": "yes", "b-00": "no", "c-00": "no"}
    assert rows["a-00"]["question"] in ("Is the cube left of the ball, yes or no?", "Is the cube left of the ball, no or yes?")
    for name, partners in (("a-00", "bc"), ("b-00", "a"), ("c-00", "a")):
        pixels = [Image.open(tmp_path / "val" / f"{p}.png").tobytes() for p in partners]
        assert rows[name]["corrupt_image"].tobytes() in pixels
    assert (record["name"], record["counts"]) == ("clevr_palit", {"relation": 3})
    reasons = {entry["sample"]: entry["reason"] for entry in record["left_out"]}
    assert reasons["c-01"].endswith("in no image has the question 'Is the cube behind of the ball?' the answer 'no'")
    assert set(reasons) == {"a-01", "b-01", "c-01"}


def test_rows_of_palit_that_cannot_be_used(tmp_path):
    good = listed(left=1)
    bad = ["__import__('os')", "[{'question': 'Is it?'}]", "[{'question': 'Is it?', 'answer': 2}]", listed(left=1)[:-1], "3", "(" * 500]
    rows = [["a", good], ["b", listed(left=0)], ["absent", good], ["../a", good], *(["c", cell] for cell in bad)]
    rows += [["c", "[{'question': 'It is', 'answer': 1}]"], ["a", good]]
    source = read_palit(palit(tmp_path, rows), tmp_path / "val")
    assert [candidate.sample_id for candidate in source.candidates] == ["a-00", "b-00"]
    reasons = [entry["reason"] for entry in source.left_out]
    assert reasons[0].startswith("clevr.csv, line 4: absent.png: no such file")
    assert "../a.png: no such file" in reasons[1]
    assert all("not a Python list of questions and answers 0 or 1" in reason for reason in reasons[2 : 2 + len(bad)])
    assert "does not end in a question mark" in reasons[-2]
    assert "the image already has this question" in reasons[-1]


def test_a_table_that_is_not_palits(tmp_path):
    with pytest.raises(SampleError, match="needs the columns Image_IDs and Questions_Answers; there are: , a, b"):
        read_palit(palit(tmp_path, [], ("", "a", "b")), tmp_path / "val")
    with pytest.raises(SampleError, match="the table cannot be read"):
        read_palit(tmp_path / "absent.csv", tmp_path / "val")


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_the_real_table_of_palit(tmp_path):
    table = SHARED / "coco_qa/palit/Datasets/clevr_vqa_dataset_3.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    (tmp_path / "val").mkdir()
    for row in rows:
        (tmp_path / "val" / f"{row['Image_IDs']}.png").touch()
    source = read_palit(table, tmp_path / "val")
    answers = {}
    for row in rows:
        for entry in ast.literal_eval(row["Questions_Answers"]):
            answers.setdefault(entry["question"], []).append(entry["answer"])
    usable = sum(len(found) for found in answers.values() if len(set(found)) == 2)
    assert len(source.candidates) == usable > 4000
    assert len(source.candidates) + len(source.left_out) == 9960
