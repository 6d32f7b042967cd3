"""ShapeWorld: worlds, partners, and masks from the world models against the pixels of real images."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import shapeworld
from data_prep.shapeworld import ShapeWorld, read_shapeworld, visible
from data_prep.tables import preparing
from data_prep.tables import schema as samples
from data_prep.tables.readers import run
from data_prep.tables.sample import SampleError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "shapeworld"
real = pytest.mark.skipif(not REAL.exists(), reason="the shared data is not here")
SIDE = 50


def entity(shape, colour, x=0.5, y=0.5, size=0.2, turn=0.0, **more):
    return {
        "id": 0,
        "shape": {"name": shape, "size": {"x": size, "y": size}},
        "color": {"name": colour, "rgb": [1.0, 0.0, 0.0], "shade": 0.1},
        "texture": {"name": "solid"},
        "center": {"x": x, "y": y},
        "rotation": turn,
        "bounding_box": {"topleft": {"x": x - size, "y": y - size}, "bottomright": {"x": x + size, "y": y + size}},
        **more,
    }


def write(folder, worlds, images=None):
    """A data set as it is generated: models in one file, images by number, captions that nobody reads."""
    folder.mkdir(parents=True, exist_ok=True)
    models = [{"size": SIDE, "color": {"name": "black"}, "entities": world, "meta": {}} for world in worlds]
    (folder / "world_model.json").write_text(json.dumps(models))
    (folder / "caption.txt").write_text("a shape is red .\n\n")
    for number in range(len(worlds)) if images is None else images:
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"world-{number}.png")
    return folder


def made(source, out, **more):
    record = preparing.prepare(ShapeWorld(folder=Path(), out=out, **more), source, progress=False)
    return {row["sample_id"]: row for row in samples.load(out)}, record


def test_image_files_that_changed_are_others(tmp_path):
    write(tmp_path, [[entity("square", "red")], [entity("square", "blue")]])
    before = read_shapeworld(tmp_path).images
    os.utime(tmp_path / "world-1.png", ns=(1, 1))
    assert read_shapeworld(tmp_path).images != before


def test_a_world_and_its_partner(tmp_path):
    other = entity("cross", "gray", 0.1, 0.1, 0.05)
    folder = write(
        tmp_path / "w", [[entity("ellipse", "red", 0.5, 0.4), other], [other, entity("ellipse", "blue")], [entity("square", "red")]]
    )
    rows, record = made(read_shapeworld(folder), tmp_path / "out")
    assert sorted(rows) == ["world-0-colour", "world-0-shape", "world-1-colour", "world-2-shape"]
    row = rows["world-0-colour"]
    assert row["question"] in ("Is the ellipse red or blue?", "Is the ellipse blue or red?")
    assert (row["category"], row["correct_answer"], row["incorrect_answer"], row["noun"]) == ("colour", "red", "blue", "ellipse")
    assert row["corrupt_image"].tobytes() == Image.open(folder / "world-1.png").tobytes()
    row = rows["world-2-shape"]
    assert row["question"] in ("Is the red shape an ellipse or a square?", "Is the red shape a square or an ellipse?")
    assert (row["correct_answer"], row["incorrect_answer"], row["noun"], row["changed_attribute"]) == (
        "square",
        "ellipse",
        "shape",
        "shape",
    )
    assert {entry["sample"] for entry in record["left_out"]} == {"world-1-shape", "world-2-colour"}
    assert "masks" in record
    assert "partners" in record


def test_world_numbers_are_numbers(tmp_path):
    """world-10 comes before world-2 in a listing; each image must stand beside the model of its number."""
    colours = ["red", "green", "blue", "cyan"] * 3
    folder = write(tmp_path / "w", [[entity("cross", colour)] for colour in colours])
    rows, _ = made(read_shapeworld(folder), tmp_path / "out")
    for number, colour in enumerate(colours):
        row = rows[f"world-{number}-colour"]
        assert row["correct_answer"] == colour
        assert row["clean_image"].tobytes() == Image.open(folder / f"world-{number}.png").tobytes()


def test_a_square_is_a_rectangle_and_a_circle_an_ellipse(tmp_path):
    worlds = [[entity("square", "red")], [entity("rectangle", "red")], [entity("circle", "blue")], [entity("ellipse", "blue")]]
    worlds.append([entity("rectangle", "green"), entity("square", "gray", 0.1)])
    worlds.append([entity("rectangle", "cyan")])
    source = read_shapeworld(write(tmp_path / "w", worlds))
    assert sorted(c.sample_id for c in source.candidates) == ["world-0-colour", "world-1-colour", "world-4-colour", "world-5-colour"]
    rows, _ = made(source, tmp_path / "out")
    assert rows["world-4-colour"]["noun"] == "square"


def test_several_data_sets_share_partners(tmp_path):
    write(tmp_path / "s" / "agreement" / "a", [[entity("cross", "red")]])
    write(tmp_path / "s" / "classification" / "b", [[], [entity("cross", "blue")]])
    rows, _ = made(read_shapeworld(tmp_path / "s"), tmp_path / "out")
    assert sorted(rows) == ["agreement/a/world-0-colour", "classification/b/world-1-colour"]


def test_a_table_of_other_models_is_made_again(tmp_path):
    """The ids are the same; what they stand for is not."""
    for colour in ("red", "green"):
        folder = write(tmp_path / "w", [[entity("cross", colour)], [entity("cross", "blue")]])
        rows, _ = made(read_shapeworld(folder), tmp_path / "out")
        assert rows["world-0-colour"]["correct_answer"] == colour


def test_worlds_that_cannot_be_used(tmp_path):
    bad = [
        [entity("hexagon", "red")],
        [entity("cross", None)],
        [entity("cross", "red", turn="x")],
        [entity("cross", "red", x=float("nan"))],
        [entity("cross", "red", size=0)],
        [{"shape": "cross"}],
        3,
    ]
    folder = write(tmp_path / "w", [[entity("cross", "red")], [entity("cross", "blue")], *bad, [entity("cross", "gray")]], images=range(9))
    Image.new("RGB", (SIDE, SIDE)).save(folder / "world-10.png")
    rows, record = made(read_shapeworld(folder), tmp_path / "out")
    assert sorted(rows) == ["world-0-colour", "world-1-colour"]
    reasons = {entry["sample"]: entry["reason"] for entry in record["left_out"]}
    for number in range(2, 6):
        assert "not a world with entities" in reasons[f"world-{number}"] or "not a known shape" in reasons[f"world-{number}"]
    assert reasons["world-6"].startswith("world_model.json, world 6: not a known shape")
    assert "KeyError: 'center'" in reasons["world-7"]
    assert "TypeError" in reasons["world-8"]
    assert reasons["world-9"].endswith("there is no image world-9.png")
    assert reasons["world-10"] == "world_model.json has 10 worlds"
    with pytest.raises(SampleError, match="world-2: "):
        made(read_shapeworld(folder), tmp_path / "strict", strict=True)


def test_damaged_and_oblong_images(tmp_path):
    folder = write(tmp_path / "w", [[entity("cross", "red")], [entity("cross", "blue")], [entity("cross", "gray")]])
    (folder / "world-1.png").write_bytes((folder / "world-1.png").read_bytes()[:100])
    Image.new("RGB", (SIDE, 20)).save(folder / "world-2.png")
    with pytest.raises(SampleError, match=r"no sample can be used(.|\n)*truncated(.|\n)*the image has 50 x 20 pixels; worlds are square"):
        made(read_shapeworld(folder), tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "says"), [("", "not JSON"), ("[" * 100_000, "not JSON"), ('{"a": 1}', "not a list of worlds"), ("[]", "the models")]
)
def test_a_file_that_is_no_world_model(tmp_path, content, says):
    (tmp_path / "world_model.json").write_text(content)
    with pytest.raises(SampleError, match=says):
        read_shapeworld(tmp_path)


def test_missing_folders_say_the_layout(tmp_path):
    with pytest.raises(SampleError, match=r"absent: no such folder; expected:\n  examples/\n    agreement/"):
        read_shapeworld(tmp_path / "absent")
    with pytest.raises(SystemExit, match=r"^data_prep\.shapeworld: .*: no world_model\.json in it or below it; expected:"):
        run(ShapeWorld(folder=tmp_path, out=tmp_path / "out"))
    write(tmp_path / "w", [[entity("cross", "red")]], images=())
    with pytest.raises(SampleError, match=r"no world has an image; w/world_model\.json, world 0: there is no image world-0\.png"):
        read_shapeworld(tmp_path)


def test_a_later_shape_hides_an_earlier_one():
    def plain(shape, x, turn=0.0):
        return {"shape": shape, "x": x, "y": 0.5, "width": 0.2, "height": 0.2, "turn": turn}

    both = [plain("square", 0.4), plain("square", 0.6)]
    first, second = (visible(both, target, 100) for target in (0, 1))
    alone = visible(both[:1], 0, 100)
    assert not (first & second).any()
    np.testing.assert_array_equal(first, alone & ~second)
    assert 0.45 < first.sum() / second.sum() < 0.55
    turned = visible([plain("square", 0.5, 1 / 8)], 0, 100)
    assert turned.any(0).sum() == pytest.approx(alone.any(0).sum() * 2**0.5, abs=4)
    assert turned.sum() == pytest.approx(alone.sum(), rel=0.06)  # of pixels, so roughly


@real
def test_masks_against_the_pixels_of_real_images():
    """A shape has one colour; its mask must hold that colour and, with the others, all pixels that are lit but a soft rim."""
    held = seen = beyond = 0
    for path in sorted(REAL.rglob("world_model.json")):
        models = json.loads(path.read_text())
        worlds, _ = shapeworld._read_worlds(path, REAL)
        for world in worlds:
            pixels = np.asarray(Image.open(world.image)).astype(int)
            model = models[int(re.search(r"\d+$", world.name)[0])]
            assert len(model["entities"]) == len(world.entities)
            union = np.zeros(pixels.shape[:2], bool)
            for target, record in enumerate(model["entities"]):
                mask = visible(world.entities, target, len(pixels))
                union |= mask
                shade, colour = record["color"]["shade"], np.array(record["color"]["rgb"])
                colour = 255 * (colour * (1 + shade) if shade < 0 else colour + (1 - colour) * shade)
                same = np.abs(pixels[mask] - colour).max(1) < 2
                held, seen = held + same.sum(), seen + same.size
                if same.size > 50:  # what is missing is the soft rim of shapes above
                    assert same.mean() > 0.75
            lit = pixels.max(2) > 0
            assert not (union & ~lit).any()
            grown = np.zeros_like(union)
            for shift in np.ndindex(3, 3):
                grown |= np.roll(union, np.array(shift) - 1, (0, 1))
            beyond += (lit & ~grown).sum()
    assert held / seen > 0.98
    assert beyond / seen < 0.003  # the soft rims are one pixel wide but at some tips
    assert seen > 30_000


@real
def test_boxes_against_those_of_the_world_models():
    for path in sorted(REAL.rglob("world_model.json")):
        models, (worlds, _) = json.loads(path.read_text()), shapeworld._read_worlds(path, REAL)
        for model, world in zip(models, worlds, strict=False):
            for number, record in enumerate(model["entities"]):
                if record["shape"]["name"] not in ("square", "rectangle", "triangle", "pentagon"):
                    continue  # the publishers' boxes of the others are those of polygons inside or around them
                ends = [(record["bounding_box"][corner][axis] + 0.02) / 1.04 * 99 for corner in ("topleft", "bottomright") for axis in "xy"]
                if min(ends) < 0 or max(ends) > 99:
                    continue
                left, top, right, bottom = shapeworld.bounding_box(visible(world.entities[number : number + 1], 0, 100))
                assert np.abs(np.array([left, top, right - 1, bottom - 1]) - ends).max() < 1.5


@real
def test_models_captions_and_agreement_of_a_real_data_set_belong_together():
    """Whether a caption holds, by the entities that are read here, must be what the publishers say."""
    folder = REAL / "agreement" / "existential-oneshape"
    blocks = [block.splitlines() for block in (folder / "caption.txt").read_text().strip().split("\n\n")]
    truths = [[float(value) for value in line.split(";")] for line in (folder / "agreement.txt").read_text().split()]
    records = json.loads((folder / "world_model.json").read_text())
    checked = Counter()
    for record, captions, holds in zip(records, blocks, truths, strict=True):
        entities = shapeworld._entities(record)
        for caption, truth in zip(captions, holds, strict=True):
            words = set(caption.split()) - {"a", "an", "is", "there", "shape", "."}
            assert any(words <= {e["shape"], e["colour"]} for e in entities) == bool(truth), caption
            checked[truth] += 1
    assert checked.total() == 500
    assert min(checked[0.0], checked[1.0]) > 100


@real
def test_the_real_data_sets(tmp_path, capsys):
    run(ShapeWorld(folder=REAL, out=tmp_path / "out"))
    table, record = samples.load(tmp_path / "out"), samples.provenance(tmp_path / "out")
    assert set(record["counts"]) == {"colour", "shape"}
    assert f"{len(table)} samples" in capsys.readouterr().out
    assert sum("there is no image" in entry["reason"] for entry in record["left_out"]) == 400 - 52
    assert len(table) + len(record["left_out"]) == 2 * 52 + 400 - 52
    for row in table:
        kinds = {"square": "rectangle", "circle": "ellipse"}
        pair = row["correct_answer"], row["incorrect_answer"]
        assert kinds.get(pair[0]) != pair[1]
        assert kinds.get(pair[1]) != pair[0]
        assert row["object_mask"] is not None
