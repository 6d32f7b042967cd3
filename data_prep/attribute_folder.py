"""Any images with class labels (birds, cars, clothes, emojis) -> questions such as "Is this a sparrow or a gull?".

In: a folder with one sub-folder for each class, or a table of images and attributes. Out: a sample table with one category for each
attribute. The corrupt image has another class (another value of the attribute), in the same group where groups are given.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from PIL import Image

from data_prep.tables.candidates import Candidate, Preparation, Source, left_out_entry
from data_prep.tables.counterparts import (
    LeftOutEntries,
    Picture,
    file_hash,
    image_files,
    images_hash,
    inside,
    mixed,
    object_place,
    pair_up,
    wrong_layout,
)
from data_prep.tables.delimited import FAULT, read_delimited
from data_prep.tables.images import open_image
from data_prep.tables.readers import main, reader
from data_prep.tables.sample import Excluded, SampleError

NO_ATTRIBUTES = ("image", "sample_id", "noun", "mask", "box")  # columns of a table with a use of their own
LAYOUT = """\
  birds/
    001.Black_footed_Albatross/*.jpg
    002.Laysan_Albatross/*.jpg
    ...
or a table (.csv or .tsv, UTF-8) with a column `image` of paths and a column for each attribute:
  image,colour,kind
  a.jpg,red,cup"""

_PLACE = re.compile(r"\{([^{}]*)\}")
Record = dict[str, str]


@reader(
    title="birds, cars, clothes, feelings, emojis, ...",
    categories="the attributes",
    corrupt_image="an image of another class",
    masks="yours",
)
@dataclass(kw_only=True)
class AttributeFolder(Preparation):
    """Make a sample table from any images with class labels.

    The source is a folder with one sub-folder for each class, or a table (.csv, .tsv) with a column `image` and one for each attribute.
    A table may also have the columns noun, mask (path of an image), box ("left top right bottom" in pixels, the last two exclusive)
    and sample_id.

    Example: python -m data_prep.attribute_folder --source CUB_200_2011/images --name birds --articles --out data/birds
    """

    source: Path
    """Folder of class folders, or a table."""
    out: Path = Path("data/attribute_folder")
    """Folder that receives the sample table; an older table there is replaced."""
    name: str = ""
    """Name of the data set; default: the source's. Samples from class folders have it as their category, others their attribute."""
    images_root: Path | None = None
    """Folder that a table's paths start from; default: the table's folder."""
    attributes: tuple[str, ...] = ()
    """Columns of the table to ask for; default: all that have no other use."""
    group_by: tuple[str, ...] = ()
    """Columns in which both images agree. With class folders: `parent`, the folder above them."""
    question: str = "Is this {a} or {b}?"
    """{a} and {b} are the options, {attribute} the column asked for; any other {column} is the row's cell, in which both images agree."""
    articles: bool = False
    """Put "a" or "an" before each option."""
    noun: str = ""
    """Word(s) of the question that name the thing, where the table has no column noun."""
    shared_first_word: bool = False
    """Offer also values with the same first word against each other ("black cat", "black dog"): for studies with --shared-pieces force."""

    def read(self) -> Source:
        return read_attribute_folder(self)


@dataclass(frozen=True)
class Labels:
    """What a folder or a table says of its images.

    Attributes
    ----------
    root : where the paths in the column `image` start
    columns : column -> the category of questions for it; "" for columns that are not asked for unless named
    rows : cells by column, each row with where it stands
    """

    root: Path
    columns: Mapping[str, str]
    rows: Sequence[tuple[str, Record]]
    left_out: LeftOutEntries


def read_attribute_folder(options: AttributeFolder) -> Source:
    """List the samples of a labelled folder or table.

    Two answers are offered against each other only if their first words differ, because models are scored by the first token, unless
    `shared_first_word` is set.

    Raises
    ------
    SampleError
        For a source that is missing or laid out otherwise, columns that it lacks, and a question that cannot be asked.
    """
    source = options.source
    name = options.name or (source.stem if source.is_file() else source.resolve().name)
    if not source.exists():
        raise wrong_layout(source, "no such file or folder", LAYOUT)
    labels = _read_folder(source, name) if source.is_dir() else _read_table(source, options.images_root)
    places = _PLACE.findall(options.question)
    if not places.count("a") == places.count("b") == 1:
        raise SampleError(f"the question {options.question!r} must have {{a}} and {{b}}, once each")
    shared = list(dict.fromkeys([*options.group_by, *(place for place in places if place not in ("a", "b", "attribute"))]))
    asked = list(options.attributes) or [column for column, category in labels.columns.items() if category and column not in shared]
    absent = [column for column in (*shared, *asked) if column not in (*labels.columns, "noun")]
    if absent or not asked:
        why = f"there is no column {absent[0]!r}" if absent else "no column is left to ask for"
        raise SampleError(f"{source}: {why}; there are: {', '.join(labels.columns)}")

    left_out = list(labels.left_out)
    candidates: list[Candidate] = []
    for attribute in asked:
        for pictures in _groups(options, labels, attribute, shared, f":{attribute}" if len(asked) > 1 else "", left_out):
            paired, alone = pair_up(pictures, _any if options.shared_first_word else _first_words_differ, options.seed)
            candidates += paired
            reason = Excluded(f"no counterpart: {_ALONE[options.shared_first_word]}")
            left_out += [left_out_entry(p.sample_id, p.where, reason) for p in pictures if p.answer in alone]
    provenance = {key: getattr(options, key) for key in ("question", "articles", "noun", "group_by", "shared_first_word")}
    provenance |= {"source": source.name, "attributes": asked, "sha256": file_hash(source) if source.is_file() else ""}
    files = [record[column] for _, record in labels.rows for column in ("image", "mask") if record.get(column)]
    return Source(name, mixed(candidates, options.seed), left_out, provenance, images_hash(labels.root, files))


_ALONE = {
    False: "no other value in its group has another first word (models are scored by the first token; --shared-first-word keeps it)",
    True: "no other value is in its group",
}


def _any(first: str, second: str) -> bool:
    return True


def _first_words_differ(first: str, second: str) -> bool:
    return first.split()[0].casefold() != second.split()[0].casefold()


def _groups(
    options: AttributeFolder, labels: Labels, attribute: str, shared: Sequence[str], suffix: str, left_out: LeftOutEntries
) -> Iterator[list[Picture]]:
    """Pictures that can be each other's counterparts; adds to `left_out` what cannot be used."""
    groups: dict[tuple[str, ...], list[tuple[str, Picture]]] = {}
    spelling: dict[str, str] = {}  # the first of "Red" and "red"
    used: dict[str, str] = {}
    for where, record in labels.rows:
        sample_id = (record.get("sample_id") or record["image"] or where) + suffix
        try:
            if used.setdefault(sample_id, where) != where:
                raise SampleError(f"its id is that of {used[sample_id]}; a column sample_id can tell rows of one image apart")
            record = {"noun": options.noun, **record}
            if empty := [column for column in ("image", attribute, *shared) if not record[column]]:
                raise (Excluded if empty == [attribute] else SampleError)(f"{' and '.join(empty)} empty")
            answer = spelling.setdefault(clean_name(record[attribute]).casefold(), clean_name(record[attribute]))
            group = tuple(record[column].casefold() for column in shared)
            picture = _picture(options, labels, record, attribute, answer, sample_id, where)
            groups.setdefault(group, []).append((record["image"], picture))
        except SampleError as error:
            left_out.append(left_out_entry(sample_id, where, error))
    for entries in groups.values():
        values: dict[str, set[str]] = {}
        for image, picture in entries:
            values.setdefault(image, set()).add(picture.answer)
        for image, picture in entries:
            if len(values[image]) > 1:
                reason = f"{picture.where}: the image has several values of {attribute}: {', '.join(map(repr, sorted(values[image])))}"
                left_out.append({"sample": picture.sample_id, "reason": reason})
        yield [picture for image, picture in entries if len(values[image]) == 1]


def _picture(options: AttributeFolder, labels: Labels, record: Record, attribute: str, answer: str, sample_id: str, where: str) -> Picture:
    cells = record | {"attribute": clean_name(attribute)}
    ask = partial(_ask, options.question, cells, options.articles)
    if record["noun"] and not re.search(rf"(?<!\w){re.escape(record['noun'])}(?!\w)", ask(answer, answer), re.IGNORECASE):
        raise SampleError(f"the noun {record['noun']!r} is not in the question {options.question!r}; {{noun}} puts it there")
    return Picture(
        sample_id=sample_id,
        category=labels.columns[attribute] or attribute,
        where=where,
        answer=answer,
        open=partial(open_image, inside(labels.root, record["image"]), record["image"]),
        ask=ask,
        columns=partial(_columns, labels.root, record, attribute),
    )


def _ask(question: str, cells: Record, articles: bool, first: str, second: str) -> str:
    options = [with_article(option) if articles else option for option in (first, second)]
    filled = cells | dict(zip("ab", options, strict=True))
    return _PLACE.sub(lambda place: filled[place[1]], question)


def _columns(root: Path, record: Record, attribute: str, image: Image.Image) -> dict[str, Any]:
    """Noun, mask and box."""
    place = object_place(root, record.get("mask", ""), record.get("box", ""), image)
    return {"noun": record["noun"], "changed_attribute": attribute, **place}


def clean_name(name: str) -> str:
    """A class's name as words: "001.Black_footed_Albatross" -> "Black footed Albatross"."""
    words = re.sub(r"^\d+[._](?=\D)", "", unicodedata.normalize("NFC", name)).replace("_", " ").split()
    return " ".join(words) or name


def with_article(words: str) -> str:
    """With "a" or "an", as the words are said."""
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()  # the letter below an accent decides
    return f"{_engine().a(plain or words).split()[0]} {words}"  # type: ignore[arg-type]


@cache
def _engine() -> Any:
    import inflect  # takes two seconds to load

    engine = inflect.engine()
    engine.defan(r"(SUV\b|8|1[18](?!\d)|[AEFHILMNORSX]\d).*")  # an SUV, an 8-ball, an 11th, an M3
    return engine


def _read_folder(root: Path, name: str) -> Labels:
    """Each image is of the class that its folder names."""
    files, left_out = image_files(root, root)
    rows = []
    for file in files:
        if "/" not in file:
            left_out.append({"sample": file, "reason": "it lies in no class folder"})
            continue
        folder = (root.resolve() / file).parent
        rows.append((file, {"image": file, "class": folder.name, "parent": folder.parent.name}))
    if len({row["class"] for _, row in rows}) < 2:
        raise wrong_layout(root, "no two class folders with images", LAYOUT)
    return Labels(root, {"image": "", "class": name, "parent": ""}, rows, left_out)


def _read_table(path: Path, images_root: Path | None) -> Labels:
    root = path.parent if images_root is None else images_root
    if not root.is_dir():
        raise SampleError(f"the folder of images {root} does not exist")
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise wrong_layout(path, "not a folder, .csv or .tsv", LAYOUT)
    columns, lines = read_delimited(path)
    if "image" not in columns or len(set(columns)) < len(columns):
        raise wrong_layout(path, f"the first line must name columns, each once, among them `image`: {','.join(columns)[:80]!r}", LAYOUT)
    if not lines:
        raise wrong_layout(path, "no rows below the line of column names", LAYOUT)
    placed = [(f"{path.name}, line {line}", record) for line, record in lines]
    rows = [(where, record) for where, record in placed if not record[FAULT]]
    left_out = [{"sample": where, "reason": f"{where}: {record[FAULT]}"} for where, record in placed if record[FAULT]]
    return Labels(root, {column: "" if column in NO_ATTRIBUTES else column for column in columns}, rows, left_out)


if __name__ == "__main__":
    main(AttributeFolder)
