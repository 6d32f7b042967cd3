"""COCO-QA: questions made from COCO's captions -> "What is the color of the bus, red or blue?", of colour, count and location.

In: the tables of Palit et al. (color_coco_qa.csv, ...) or the original four text files, and COCO's images. Out: a sample table. The corrupt
image is one with a question about the same thing and another answer: the question with most words in common, which is the same
question where there is one.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from data_prep.tables.candidates import Candidate, Preparation, Source, correct_comes_first, left_out_entry, rng_of
from data_prep.tables.coco import IMAGES, Objects, find_images, read_objects
from data_prep.tables.counterparts import LeftOutEntries, file_hash, images_hash, wrong_layout
from data_prep.tables.images import open_image
from data_prep.tables.readers import main, reader
from data_prep.tables.sample import Excluded, SampleError
from data_prep.wording.coco_qa import Wording, mended

TABLES = {"color_coco_qa.csv": "colour", "count_coco_qa.csv": "count", "location_coco_qa.csv": "location"}
COLUMNS = ("train_image_id_count", "question_count", "answer_count")  # so named in all three tables
FILES = ("img_ids.txt", "questions.txt", "answers.txt", "types.txt")
TYPES = {"1": "count", "2": "colour", "3": "location"}
OBJECT = "0"  # the type of questions that are not used
FORMS = {
    "colour": "{}, {} or {}?",
    "count": "{}, {} or {}?",
    "location": "{}, the {} or the {}?",
}
LAYOUT = f"""\
  Datasets/
    color_coco_qa.csv   (any of the three)
    count_coco_qa.csv
    location_coco_qa.csv
or the original form
  train/
    img_ids.txt
    questions.txt
    answers.txt
    types.txt
and
{IMAGES}"""
WORDS = Path(__file__).parent / "wording" / "word_lists" / "coco_qa.json"


@reader(
    title="COCO-QA",
    categories="colour, count, location",
    corrupt_image="an image of the same kind of thing, with another answer",
    masks="`--instances`",
)
@dataclass(kw_only=True)
class CocoQa(Preparation):
    """Make a sample table of COCO-QA, with the categories colour, count and location.

    Questions are mended and those that are beyond it left out, as are answers of another kind ("bathroom" for a colour), repeated
    questions, and questions with several answers. The two options are never such that both may be true ("kitchen" and "room").

    Example: python -m data_prep.coco_qa --source Datasets --images train2014 --out data/coco_qa --limit 500
    """

    source: Path
    """Folder of the tables of Palit et al., or one with the four text files of a split."""
    images: Path
    """Folder of COCO's images, named by their ids."""
    instances: Path | None = None
    """COCO's instances_train2014.json: gives the mask and box of the thing asked about where it is the image's only one of its
    category. Reading it takes 1 GB of memory."""
    same_question: bool = False
    """Pair only images with word for word the same question; few counts and locations are then left."""
    out: Path = Path("data/coco_qa")
    """Folder that receives the sample table; an older table there is replaced."""

    def read(self) -> Source:
        return read_coco_qa(self)


@dataclass(frozen=True)
class Entry:
    """A question as it is published."""

    sample_id: str
    where: str
    category: str
    image: int
    question: str
    answer: str


@dataclass(frozen=True)
class Asked:
    """A question that can be asked, in its own words and in ours."""

    entry: Entry
    wording: Wording
    words: frozenset[str]


def read_coco_qa(options: CocoQa) -> Source:
    """List the samples of COCO-QA.

    Raises
    ------
    SampleError
        For a folder or file that is missing or of another form.
    """
    entries, left_out, provenance = _read(options.source)
    images = find_images(options.images)
    asked = list(_usable(entries, images, left_out))
    objects = read_objects(options.instances, {a.entry.image for a in asked}) if options.instances else None
    pools: dict[tuple[str, str], list[Asked]] = defaultdict(list)
    for one in asked:
        pools[one.entry.category, one.wording.thing].append(one)
    candidates = []
    for one in asked:
        make = partial(_row, one, pools[one.entry.category, one.wording.thing], images, objects, options.same_question, options.seed)
        candidates.append(Candidate(one.entry.sample_id, one.entry.category, one.entry.where, make))
    provenance |= {"same_question": options.same_question, "instances": file_hash(options.instances) if options.instances else ""}
    files = images_hash(options.images, {images[a.entry.image].relative_to(options.images).as_posix() for a in asked})
    return Source("coco_qa", candidates, left_out, provenance, files)


@cache
def _answers() -> dict[tuple[str, str], int]:
    """Category and answer -> the kind of answer; options are of one kind."""
    kinds = json.loads(WORDS.read_text(encoding="utf-8"))["answers"]
    return {(name, word): number for name, lists in kinds.items() for number, words in enumerate(lists) for word in words}


@cache
def _compatible() -> set[frozenset[str]]:
    """Pairs of answers that may both be true of an image."""
    lists = json.loads(WORDS.read_text(encoding="utf-8"))["may_both_be_true"]
    return {frozenset((word, other)) for word, others in lists.items() for other in others}


def _usable(entries: Sequence[Entry], images: Mapping[int, Path], left_out: LeftOutEntries) -> Iterator[Asked]:
    """The questions that can be asked; adds the others to `left_out`."""
    first: dict[tuple[str, int, str], Entry] = {}
    answers: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for entry in entries:
        if (entry.category, entry.answer) in _answers():
            answers[entry.category, entry.image, entry.question].add(entry.answer)
    for entry in entries:
        key = entry.category, entry.image, entry.question
        words = entry.question.split()
        try:
            if (entry.category, entry.answer) not in _answers():
                raise Excluded(f"the answer {entry.answer!r} is not a {entry.category} that is used")
            if len(answers[key]) > 1:
                raise Excluded(f"the image has this question with several answers: {', '.join(map(repr, sorted(answers[key])))}")
            if first.setdefault(key, entry) is not entry:
                raise Excluded(f"the image already has this question: {first[key].where}")
            if entry.answer in words:
                raise Excluded(f"the answer {entry.answer!r} is in the question {entry.question!r}")
            wording = mended(entry.category, entry.question)
            if entry.image not in images:
                raise SampleError(f"there is no image of the id {entry.image}")
        except SampleError as error:
            left_out.append(left_out_entry(entry.sample_id, entry.where, error))
        else:
            yield Asked(entry, wording, frozenset(words))


def _row(
    asked: Asked, pool: Sequence[Asked], images: Mapping[int, Path], objects: Objects | None, same_question: bool, seed: int
) -> dict[str, Any]:
    entry, wording = asked.entry, asked.wording
    partner = _partner(asked, pool, same_question, seed).entry
    options = (entry.answer, partner.answer) if correct_comes_first(seed, entry.sample_id) else (partner.answer, entry.answer)
    clean = open_image(images[entry.image], images[entry.image].name)
    return {
        "question": FORMS[entry.category].format(wording.text, *options),
        "correct_answer": entry.answer,
        "incorrect_answer": partner.answer,
        "noun": wording.noun,
        "clean_image": clean,
        "corrupt_image": open_image(images[partner.image], images[partner.image].name),
        "changed_attribute": entry.category,
        **(objects.place(entry.image, wording.category, clean) if objects else {}),
    }


def _partner(asked: Asked, pool: Sequence[Asked], same_question: bool, seed: int) -> Asked:
    """Of the questions about the same thing, the one with most words in common (intersection over union) on another image with another
    answer; of several, one drawn."""
    kinds, mine = _answers(), (asked.entry.category, asked.entry.answer)
    rivals = []
    for other in pool:
        answer = other.entry.answer
        opposed = answer != mine[1] and kinds[mine[0], answer] == kinds[mine] and frozenset((answer, mine[1])) not in _compatible()
        if opposed and other.entry.image != asked.entry.image and answer not in asked.words:
            rivals.append((len(asked.words & other.words) / len(asked.words | other.words), other))
    best = max((share for share, _ in rivals), default=0.0)
    if not rivals or (same_question and best < 1):
        what = f"the question {asked.entry.question!r}" if same_question else f"a question about {asked.wording.thing!r}"
        raise Excluded(f"no other image has {what} with another answer that can be offered")
    nearest = [other for share, other in rivals if share == best]
    return nearest[int(rng_of(seed, "partner", asked.entry.sample_id).integers(len(nearest)))]


def _read(source: Path) -> tuple[list[Entry], LeftOutEntries, dict[str, Any]]:
    """The questions of a folder, those that cannot be read, and what the files are."""
    left_out: LeftOutEntries = []
    if tables := [name for name in TABLES if (source / name).is_file()]:
        entries = [entry for name in tables for entry in _read_table(source / name, TABLES[name], left_out)]
        return entries, left_out, {"files": {name: file_hash(source / name) for name in tables}}
    if all((source / name).is_file() for name in FILES):
        entries = list(_read_lines(source, left_out))
        return entries, left_out, {"files": {name: file_hash(source / name) for name in FILES}, "split": source.resolve().name}
    raise wrong_layout(source, "no table or set of four files" if source.is_dir() else "no such folder", LAYOUT)


def _read_table(path: Path, category: str, left_out: LeftOutEntries) -> Iterator[Entry]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise SampleError(f"{path}: there is no column {missing[0]!r}; there are: {', '.join(reader.fieldnames or ())}")
            for row in reader:
                where, cells = f"{path.name}, line {reader.line_num}", [row[name] for name in COLUMNS]
                if None in row:
                    left_out.append({"sample": f"{category}-{reader.line_num}", "reason": f"{where}: more cells than columns"})
                else:
                    yield from _entry(category, where, reader.line_num, cells, left_out)
    except (UnicodeDecodeError, csv.Error) as error:
        raise SampleError(f"{path}: the table cannot be read ({error})") from error


def _read_lines(folder: Path, left_out: LeftOutEntries) -> Iterator[Entry]:
    """Line n of the four files is one question. Those about objects are not used and not listed."""
    columns = []
    for name in FILES:
        try:
            columns.append((folder / name).read_text(encoding="utf-8-sig").splitlines())
        except UnicodeDecodeError as error:
            raise SampleError(f"{folder / name}: not UTF-8 text (byte {error.start})") from error
    if len({len(column) for column in columns}) > 1:
        lengths = ", ".join(f"{name} {len(column)}" for name, column in zip(FILES, columns, strict=True))
        raise SampleError(f"{folder}: the files have different numbers of lines ({lengths}); line n of each must be one question")
    for number, (*cells, kind) in enumerate(zip(*columns, strict=True), 1):
        if kind.strip() in TYPES:
            yield from _entry(TYPES[kind.strip()], f"line {number}", number, cells, left_out)
        elif kind.strip() != OBJECT:
            left_out.append({"sample": f"line {number}", "reason": f"types.txt, line {number}: the type is {kind!r}, not 0, 1, 2 or 3"})


def _entry(category: str, where: str, number: int, cells: Sequence[str], left_out: LeftOutEntries) -> Iterator[Entry]:
    image, question, answer = (" ".join(cell.split()) for cell in cells)
    sample_id = f"{category}-{number}"
    if not (image.isascii() and image.isdigit() and question and answer):
        reason = f"{where}: needs an image's id, a question and an answer, has {image!r}, {question!r} and {answer!r}"
        left_out.append({"sample": sample_id, "reason": reason})
    else:
        yield Entry(sample_id, where, category, int(image), question.lower(), answer.lower())


if __name__ == "__main__":
    main(CocoQa)
