"""What all data sets' scripts share: limits, the options' order, interruptions, scaling, and what is left out."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

from data_prep.tables import preparing
from data_prep.tables import schema as samples
from data_prep.tables.candidates import Candidate, Preparation, Source, correct_comes_first, left_out_entry
from data_prep.tables.images import bounding_box
from data_prep.tables.preparing import prepare
from data_prep.tables.readers import run
from data_prep.tables.sample import Excluded, SampleError

PART = 4
COUNT = 22
BROKEN = {3, 8, 9, 10, 11, 17}  # of the candidates; 8 to 11 are a whole part


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(preparing, "PART", PART)


def noise(*seed, size=(6, 5)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8))


@dataclass
class Reader:
    """A source of candidates of two categories, with some that cannot be used; stops when it is to make number `stop`."""

    broken: set = field(default_factory=lambda: set(BROKEN))
    stop: int | None = None
    columns: dict = field(default_factory=dict)
    made: list = field(default_factory=list)

    def make(self, number):
        if number == self.stop:
            raise KeyboardInterrupt
        self.made.append(number)
        if number in self.broken:
            raise SampleError(f"number {number} is broken")
        options = ("red", "blue") if correct_comes_first(0, f"s{number}") else ("blue", "red")
        return {
            "question": "Is it {} or {}?".format(*options),
            "correct_answer": "red",
            "incorrect_answer": "blue",
            "clean_image": noise(number, 0),
            "corrupt_image": noise(number, 1),
            **self.columns,
        }

    def source(self, count=COUNT, name="made", **more):
        def candidate(number):
            return Candidate(f"s{number}", "even" if number % 2 == 0 else "odd", f"t.csv, line {number}", lambda: self.make(number))

        return Source(name, [candidate(number) for number in range(count)], **more)


def table_of(tmp_path, reader=None, *, out="table", source=None, **options):
    chosen = Preparation(out=tmp_path / out, **options)
    record = prepare(chosen, source or (reader or Reader()).source(), progress=False)
    return samples.load(chosen.out), record


def numbers(table):
    return [int(name.removeprefix("s")) for name in table["sample_id"]]


def one(row):
    """A source whose one candidate is this row."""
    base = {"question": "Is it red or blue?", "correct_answer": "red", "incorrect_answer": "blue"}
    images = {"clean_image": noise(0), "corrupt_image": noise(1)}
    return Source("one", [Candidate("a", "c", "here", lambda: base | images | row)])


def test_every_candidate_is_in_the_table_or_left_out_with_its_reason(tmp_path):
    table, record = table_of(tmp_path, source=Reader().source(left_out=[{"sample": "x", "reason": "t.csv, line 99: no image"}]))
    assert numbers(table) == [number for number in range(COUNT) if number not in BROKEN]
    assert record["left_out"] == [
        {"sample": "x", "reason": "t.csv, line 99: no image"},
        *({"sample": f"s{number}", "reason": f"t.csv, line {number}: number {number} is broken"} for number in sorted(BROKEN)),
    ]
    assert samples.provenance(tmp_path / "table") == record
    assert set(table["dataset"]) == {"made"}
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


def test_a_smaller_limit_takes_a_part_of_what_a_larger_one_takes(tmp_path):
    taken = {0: set(range(COUNT)) - BROKEN}
    for limit in (1, 2, 5, 7, 100):
        table, _ = table_of(tmp_path, out=f"limit {limit}", limit=limit)
        taken[limit] = set(numbers(table))
        for parity in (0, 1):
            usable = {number for number in taken[0] if number % 2 == parity}
            assert len(taken[limit] & usable) == min(limit, len(usable))
    assert taken[1] < taken[2] < taken[5] < taken[7] < taken[100] == taken[0]
    other, _ = table_of(tmp_path, out="other", limit=5, seed=1)
    assert set(numbers(other)) != taken[5]


def test_a_limit_makes_no_more_than_it_needs(tmp_path):
    reader = Reader(broken=set())
    table_of(tmp_path, reader, limit=2)
    assert len(reader.made) == 4


def test_the_correct_option_comes_first_in_half_of_the_samples():
    ids = [f"made-{number}" for number in range(4000)]
    first = np.array([correct_comes_first(0, name) for name in ids])
    other = np.array([correct_comes_first(1, name) for name in ids])
    for sequence in (first, other, first ^ other, first[1:] ^ first[:-1]):  # fair, whatever the seed and the neighbour
        assert abs(sequence.mean() - 0.5) < 4 * 0.5 / len(sequence) ** 0.5
    assert [correct_comes_first(0, name) for name in reversed(ids)] == first[::-1].tolist()


def test_the_order_of_the_options_is_read_off_the_question(tmp_path):
    table, _ = table_of(tmp_path)
    assert [row["question"].startswith("Is it red") for row in table] == table["correct_first"][:]
    assert set(table["correct_first"]) == {True, False}


@pytest.mark.parametrize(("limit", "after"), [(0, 1), (0, PART), (0, PART + 2), (0, 3 * PART), (0, COUNT - 1), (6, PART), (6, PART + 3)])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path, limit, after):
    whole = Reader()
    expected, record = table_of(tmp_path, whole, out="whole", limit=limit)
    stop = whole.made[after]
    with pytest.raises(KeyboardInterrupt):
        table_of(tmp_path, first := Reader(stop=stop), limit=limit)
    assert not (tmp_path / "table").exists()
    with pytest.raises(KeyboardInterrupt):  # at the same place again
        table_of(tmp_path, Reader(stop=stop), limit=limit)
    table, again = table_of(tmp_path, second := Reader(), limit=limit)
    assert samples.fingerprint(table) == samples.fingerprint(expected)
    assert again == record
    assert first.made + second.made[second.made.index(stop) :] == whole.made
    assert second.made.index(stop) < PART  # no more than a part is made twice


def test_interrupted_while_the_table_is_written(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(samples, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            table_of(tmp_path)
    table, record = table_of(tmp_path, reader := Reader())
    assert reader.made == []
    assert set(numbers(table)) == set(range(COUNT)) - BROKEN
    assert len(record["left_out"]) == len(BROKEN)


def test_half_a_part_is_none(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        table_of(tmp_path, Reader(stop=6))
    parts = tmp_path / ".table.partial"
    (parts / "new").mkdir()  # as when the machine stops while a part is written
    (parts / "new" / "dataset_info.json").write_text("{")
    assert set(numbers(table_of(tmp_path)[0])) == set(range(COUNT)) - BROKEN


@pytest.mark.parametrize("change", [{"seed": 1}, {"limit": 3}, {"longest_side": 5}, {"name": "other"}, {"provenance": {"sha256": "b"}}])
def test_another_configuration_takes_nothing_from_an_earlier_one(tmp_path, change):
    options = {name: value for name, value in change.items() if hasattr(Preparation, name)}
    source = {name: value for name, value in change.items() if name not in options}
    with pytest.raises(KeyboardInterrupt):
        table_of(tmp_path, Reader(stop=6))
    table, _ = table_of(tmp_path, source=(reader := Reader()).source(**source), **options)
    expected, _ = table_of(tmp_path, source=Reader().source(**source), out="expected", **options)
    assert samples.fingerprint(table) == samples.fingerprint(expected)
    assert len(reader.made) >= len(table)

    table_of(tmp_path)  # and replaces the finished table
    assert samples.provenance(tmp_path / "table")["configuration"]["seed"] == 0
    assert len(samples.load(tmp_path / "table")) == COUNT - len(BROKEN)


def test_unreadable_parts_are_made_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        table_of(tmp_path, Reader(stop=6))
    (tmp_path / ".table.partial" / "configuration.json").write_text('{"limit": ')
    table_of(tmp_path, reader := Reader())
    assert reader.made == list(range(COUNT))


def test_a_table_already_made_is_left_alone_and_says_so(tmp_path, capsys):
    _, record = table_of(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "table").iterdir()}
    assert "already made" not in capsys.readouterr().err
    _, again = table_of(tmp_path, reader := Reader())
    assert (reader.made, again) == ([], record)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "table").iterdir()} == before
    assert "already made by these options; remove it" in capsys.readouterr().err


def test_strict_stops_at_the_first_and_goes_on_when_it_is_mended(tmp_path):
    reader = Reader(broken={9, 12})
    with pytest.raises(SampleError, match=r"^s9: t\.csv, line 9: number 9 is broken$"):
        table_of(tmp_path, reader, strict=True)
    assert reader.made == list(range(10))
    assert len(table_of(tmp_path, mended := Reader(broken=set()), strict=True)[0]) == COUNT
    assert mended.made == list(range(2 * PART, COUNT))

    reader = Reader()
    with pytest.raises(SampleError, match="x: no image"):
        table_of(tmp_path, out="other", source=reader.source(left_out=[{"sample": "x", "reason": "no image"}]), strict=True)
    assert reader.made == []


def test_strict_accepts_nothing_from_a_run_that_was_not(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        table_of(tmp_path, Reader(stop=6))
    for _ in range(2):  # from parts, then from a finished table
        with pytest.raises(SampleError, match="s3: "):
            table_of(tmp_path, strict=True)
        table_of(tmp_path)


def test_strict_lets_pass_what_is_left_out_by_design(tmp_path):
    def by_design():
        raise Excluded("not asked about")

    source = Reader(broken=set()).source(left_out=[left_out_entry("x", "t.csv, line 9", Excluded("a person"))])
    source.candidates[5] = Candidate("s5", "odd", "t.csv, line 5", by_design)
    table, record = table_of(tmp_path, source=source, strict=True)
    assert len(table) == COUNT - 1
    assert record["left_out"] == [
        {"sample": "x", "reason": "t.csv, line 9: a person", "kind": "excluded"},
        {"sample": "s5", "reason": "t.csv, line 5: not asked about", "kind": "excluded"},
    ]


def test_other_image_files_are_another_table_and_are_said(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        table_of(tmp_path, source=Reader(stop=6).source(images="A"))
    table_of(tmp_path, source=(second := Reader()).source(images="B"))
    assert second.made == list(range(COUNT))
    assert f"the unfinished table of {tmp_path / 'table'} differs in image files; it is begun again" in capsys.readouterr().err
    table_of(tmp_path, source=(third := Reader()).source(images="C", provenance={"split": "val"}), seed=1)
    assert third.made == list(range(COUNT))
    assert f"{tmp_path / 'table'} holds a table that differs in seed, image files, split; it will be replaced" in capsys.readouterr().err


def test_a_name_that_is_no_folders_is_refused_before_the_work(tmp_path):
    with pytest.raises(SampleError, match=r"'x/\.\./y' must not start"):
        table_of(tmp_path, source=(reader := Reader()).source(name="x/../y"))
    assert reader.made == []


def test_ids_used_twice(tmp_path):
    twice = Reader().source().candidates[:2]
    with pytest.raises(SampleError, match="'s0' is used twice"):
        table_of(tmp_path, source=Source("made", [*twice, twice[0]]))


def test_no_sample_left_and_mended(tmp_path):
    with pytest.raises(
        SampleError, match=r"made: no sample can be used; the reasons:\n  22 such as s0: t.csv, line 0: number 0 .*\n  1 such as x: gone"
    ):
        table_of(tmp_path, source=Reader(broken=set(range(COUNT))).source(left_out=[{"sample": "x", "reason": "gone"}]))
    assert list(tmp_path.iterdir()) == []
    assert len(table_of(tmp_path, Reader(broken=set()))[0]) == COUNT


def test_a_folder_of_something_else_is_refused_before_the_work(tmp_path):
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "thesis.txt").write_text("all of it")
    with pytest.raises(SampleError, match="exists and is not a sample table"):
        table_of(tmp_path, reader := Reader())
    assert reader.made == []
    assert [path.name for path in tmp_path.rglob("*")] == ["table", "thesis.txt"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"corrupt_image": noise(0)}, "identical"),
        ({"question": "Is it red?"}, "'blue' is not in the question"),
        ({"incorrect_answer": "Red", "question": "Is it red or Red?"}, "the two answers are the same"),
        ({"incorrect_answer": "red"}, "the two answers are the same: 'red'"),
        ({"clean_image": noise(0).convert("L")}, "clean_image has mode L"),
        ({"object_mask": Image.new("L", (5, 6), 255)}, "object_mask is 5 x 6 pixels, clean_image 6 x 5"),
        ({"object_box": [0, 0, 7, 5]}, "not a box inside clean_image"),
        ({"object_box": [1, 2]}, "object_box has 2 numbers"),
    ],
)
def test_a_row_that_breaks_the_contract_is_left_out(tmp_path, row, says):
    for longest_side in (0, 5):  # scaling must not hide it
        with pytest.raises(SampleError, match="no sample can be used") as caught:
            table_of(tmp_path, source=one(row), longest_side=longest_side)
        assert says in str(caught.value)


def test_scaling_keeps_the_object_in_its_mask_and_box(tmp_path):
    mask = np.zeros((40, 90), np.uint8)
    mask[7, 31:62] = 200  # one pixel high
    row = {
        "clean_image": noise(0, size=(90, 40)),
        "corrupt_image": noise(1, size=(20, 60)),
        "object_mask": Image.fromarray(mask),
        "object_box": bounding_box(mask > 127),
    }
    sample = table_of(tmp_path, source=one(row), longest_side=30)[0][0]
    assert (sample["clean_image"].size, sample["corrupt_image"].size) == ((30, 13), (10, 30))
    expected = np.zeros((13, 30), bool)
    for y, x in zip(*np.nonzero(mask), strict=True):
        expected[int(y * 13 / 40) : int(np.ceil((y + 1) * 13 / 40)), int(x * 30 / 90) : int(np.ceil((x + 1) * 30 / 90))] = True
    np.testing.assert_array_equal(np.asarray(sample["object_mask"]) > 127, expected)
    assert list(sample["object_box"]) == list(bounding_box(expected))

    for longest_side in (0, 90, 500):  # never enlarged
        sample = table_of(tmp_path, source=one(row), longest_side=longest_side, out=str(longest_side))[0][0]
        assert sample["clean_image"].tobytes() == row["clean_image"].tobytes()
        assert sample["corrupt_image"].size == (20, 60)
        assert list(sample["object_box"]) == [31, 7, 62, 8]


def test_a_smooth_image_keeps_its_look_when_scaled(tmp_path):
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 32, 0).repeat(3, 2)
    sample = table_of(tmp_path, source=one({"clean_image": Image.fromarray(ramp)}), longest_side=16)[0][0]
    np.testing.assert_allclose(np.asarray(sample["clean_image"])[4, :, 0], np.arange(16) * 255 / 15.75 + 6, atol=4)


def test_images_that_scaling_spoils_are_left_out(tmp_path):
    with pytest.raises(SampleError, match="clean_image of 100 x 9 pixels would become 20 x 2; a side must have 4"):
        table_of(tmp_path, source=one({"clean_image": noise(0, size=(100, 9))}), longest_side=20)
    dots = np.zeros((80, 80, 3), np.uint8)
    dots[0, 0] = 1
    with pytest.raises(SampleError, match="identical"):
        table_of(tmp_path, source=one({"clean_image": Image.fromarray(dots), "corrupt_image": Image.new("RGB", (80, 80))}), longest_side=8)


@pytest.mark.parametrize("option", [{"limit": -1}, {"seed": -1}, {"longest_side": 3}, {"longest_side": -8}])
def test_options_out_of_range(option, capsys):
    with pytest.raises(SampleError, match=next(iter(option))):
        Preparation(**option)
    name, value = next(iter(option.items()))
    with pytest.raises(SystemExit):
        tyro.cli(Preparation, args=[f"--{name.replace('_', '-')}", str(value)])
    assert name in capsys.readouterr().err


def reading(read, out):
    """Options of a reader that reads in this way."""

    class Reading(Preparation):
        def read(self):
            return read()

    return Reading(out=out)


def test_what_a_script_says(tmp_path, capsys):
    options = reading(Reader(broken=set(range(1, COUNT, 2))).source, tmp_path / "table")
    preparing.run(options)
    said = capsys.readouterr()
    made = f"{COUNT // 2} samples ({COUNT // 2} even) in {options.out}\n"
    assert said.out == f"{made}11 left out, 0 of them by design (above, and in data.json)\n"
    assert said.err.endswith("left out 11 such as s1: t.csv, line 1: number 1 is broken\n")


def test_the_reasons_are_told_by_kind(tmp_path, capsys):
    odd = [{"sample": f"x{i}", "reason": f"reason {'abcdefghijkl'[i]}"} for i in range(12)]
    excluded = [
        left_out_entry(f"a b/{name}.png", f"a b/{name}.png", Excluded(f'no partner of {name!r}: it says "it\'s {name}"')) for name in "uvw"
    ]
    files = [{"sample": f"p{name}", "reason": f"things.csv, line {line}: {name} b.jpg: no such file"} for line, name in enumerate("pq")]
    options = reading(lambda: Reader().source(left_out=[*odd, *files, *excluded]), tmp_path / "table")
    preparing.run(options)
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith(("left", "..."))]
    assert lines[:4] == [
        "left out 6 such as s3: t.csv, line 3: number 3 is broken",
        "left out 3 such as a b/u.png: a b/u.png: no partner of 'u': it says \"it's u\"",
        "left out 2 such as pp: things.csv, line 0: p b.jpg: no such file",
        "left out x0: reason a",
    ]
    assert len(lines) == 11
    assert lines[-1] == f"... and 5 for other reasons, see {options.out / 'data.json'}"
    assert said.out.endswith("23 left out, 3 of them by design (above, and in data.json)\n")
    kinds = samples.provenance(options.out)["left_out_by_reason"]
    assert [kind["count"] for kind in kinds] == [6, 3, 2, *[1] * 12]
    assert kinds[1] == {"count": 3, **excluded[0]}


def test_how_a_script_ends(tmp_path, capsys):
    def no_file():
        return Path(tmp_path / "absent.csv").read_text()

    with pytest.raises(SystemExit, match=r"^data_prep.test_preparing: .*absent\.csv"):
        run(reading(no_file, tmp_path / "t"))
    with pytest.raises(SystemExit) as ended:
        run(reading(Reader(stop=5).source, tmp_path / "t"))
    assert ended.value.code == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "data_prep.test_preparing: interrupted; what is finished is kept, run the same command to go on"
