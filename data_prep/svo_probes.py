"""SVO-Probes: pairs of photographs that differ in subject, verb or object -> questions such as "Is the man sitting or lying in the grass?".

In: the publishers' table svo_probes.csv, which gives the photographs by their web addresses. Out: a sample table with the categories
subject, verb and object. Each row of the table gives two samples, with either photograph as the clean image.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from data_prep.tables.candidates import Candidate, Preparation, Source, correct_comes_first, left_out_entry
from data_prep.tables.counterparts import LeftOutEntries, file_hash, images_hash, mixed, wrong_layout
from data_prep.tables.delimited import FAULT, Line, read_delimited
from data_prep.tables.downloads import Downloads, Limits
from data_prep.tables.images import ImageError, open_image
from data_prep.tables.readers import main, reader
from data_prep.tables.sample import Excluded, SampleError
from data_prep.wording.inflection import PARTS, Links, Part, Question, Triplet, ask, expresses, options_in
from data_prep.wording.rephrasing import Rephraser, load_rephraser

FLAGS: dict[Part, str] = {"subject": "subj_neg", "verb": "verb_neg", "object": "obj_neg"}
NEEDED = ("pos_triplet", "neg_triplet", "pos_url", "neg_url", *FLAGS.values())
OPTIONAL = ("sentence", "pos_image_id", "neg_image_id")
LICENCE = "CC BY 4.0 (table), https://github.com/google-deepmind/svo_probes; each photograph has its owner's"
LAYOUT = f"""\
  svo_probes.csv with the columns {", ".join(NEEDED)},
  and if you like {", ".join(OPTIONAL)}"""
PROMPTS_LAYOUT = "  a CSV file with the columns row, question"

_WORD = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")


@reader(
    title="SVO-Probes",
    categories="subject, verb, object",
    corrupt_image="the row's other photograph",
)
@dataclass(kw_only=True)
class SvoProbes(Preparation):
    """Make a sample table of SVO-Probes.

    Fetches the photographs that it needs; dead links are left out and listed. Rows whose triplets differ in more than the flagged part, or
    name a "person", are left out, as is every row whose flags are not exactly one.

    Example: python -m data_prep.svo_probes --table svo_probes.csv --limit 500 --longest-side 640
    """

    table: Path
    """The publishers' table svo_probes.csv."""
    out: Path = Path("data/svo_probes")
    """Folder that receives the sample table; an older table there is replaced."""
    images: Path | None = None
    """Folder of photographs that you have already, named by image id (2041.jpg) or as this script names them; nothing is fetched then."""
    downloads: Path = Path("data/svo_probes_images")
    """Folder that keeps what is fetched, and the list of dead links."""
    prompts: Path | None = None
    """CSV of questions of your own, with the columns row (1 is the first row below the column names) and question."""
    rephrase_with: Path | None = None
    """Folder of a Hugging Face text model that rephrases the questions; its version is used where it keeps the words and their order."""
    workers: int = 16
    """Photographs fetched at once."""
    seconds: float = 30.0
    """Time limit of one attempt to fetch a photograph."""
    megabytes: float = 20.0
    """Largest file that is fetched."""
    attempts: int = 3
    """Attempts before a photograph is given up."""
    allow_private: bool = False
    """Fetch from addresses of this machine and its local network too."""

    def read(self) -> Source:
        limits = Limits(
            workers=self.workers,
            seconds=self.seconds,
            megabytes=self.megabytes,
            attempts=self.attempts,
            allow_private=self.allow_private,
        )
        log = self.out.with_name(f"{self.out.name}.rephrased.jsonl")
        return read_svo_probes(
            self.table,
            Folder(self.images) if self.images else Web(Downloads(self.downloads, limits)),
            prompts=self.prompts,
            rephrase=load_rephraser(self.rephrase_with, log) if self.rephrase_with else None,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Photograph:
    """An image of the table: its web address, and its number if the table has one."""

    url: str
    image_id: str


@dataclass(frozen=True)
class Row:
    """A usable row: its positive and its negative photograph with triplets that differ in one part; the sentence is about the first."""

    number: int
    where: str
    sentence: str
    part: Part
    triplets: tuple[Triplet, Triplet]
    photographs: tuple[Photograph, Photograph]


class Folder:
    """Photographs that the user has, found by image id or by the name that a download would have.

    Raises
    ------
    SampleError
        For a folder that does not exist.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise SampleError(f"the folder of images {folder} does not exist")
        self.folder = folder
        self._files = {path.stem: path for path in sorted(folder.rglob("*"), reverse=True) if path.is_file()}

    def open(self, photograph: Photograph) -> Image.Image:
        if path := self.find(photograph):
            return open_image(path)
        raise ImageError(f"{self.folder} has no file named {' or '.join(map(repr, self._names(photograph)))}")

    def find(self, photograph: Photograph) -> Path | None:
        return next((self._files[name] for name in self._names(photograph) if name in self._files), None)

    def _names(self, photograph: Photograph) -> list[str]:
        return [name for name in (photograph.image_id, Downloads.name(photograph.url)) if name]


class Web:
    """Photographs fetched by their addresses."""

    def __init__(self, downloads: Downloads) -> None:
        self.downloads = downloads

    def open(self, photograph: Photograph) -> Image.Image:
        return open_image(self.downloads.path(photograph.url), photograph.url)


def read_svo_probes(
    table: Path, images: Folder | Web, *, prompts: Path | None = None, rephrase: Rephraser | None = None, seed: int = 0
) -> Source:
    """List the samples of SVO-Probes: "row-00001-pos" has the positive photograph of the first row as its clean image.

    Raises
    ------
    SampleError
        For a table or prompts that are missing or without a needed column, and for prompts of no row.
    """
    records = _read_csv(table, NEEDED, LAYOUT)
    given = read_prompts(prompts, len(records)) if prompts else {}
    links = Links((record["sentence"], triplet) for _, record in records for triplet in _listed(record["pos_triplet"]))
    rows: list[Row] = []
    left_out: LeftOutEntries = []
    for number, (line, record) in enumerate(records, 1):
        try:
            rows.append(_row(number, f"{table.name}, line {line}", record))
        except SampleError as error:
            left_out.append(left_out_entry(f"row-{number:05d}", f"{table.name}, line {line}", error))
    candidates: list[Candidate] = []
    photographs: dict[str, tuple[Photograph, Photograph]] = {}
    first_with: dict[object, str] = {}
    for row in rows:
        for clean, name in enumerate(("pos", "neg")):
            sample_id = f"row-{row.number:05d}-{name}"
            try:
                question = _question(row, correct_comes_first(seed, sample_id) == bool(clean), links, given.get(row.number, ""))
                same = (row.part, *((row.triplets[i], row.photographs[i].url) for i in (clean, 1 - clean)))
                if first_with.setdefault(same, sample_id) != sample_id:
                    raise Excluded(f"the same photographs and options as {first_with[same]}")
            except SampleError as error:
                left_out.append(left_out_entry(sample_id, row.where, error))
                continue
            rewrite = None if row.number in given else rephrase
            candidates.append(Candidate(sample_id, row.part, row.where, partial(_sample, row, clean, question, images, rewrite)))
            photographs[sample_id] = row.photographs

    def fetch(needed: Sequence[Candidate]) -> None:
        assert isinstance(images, Web)
        images.downloads.fetch(image.url for candidate in needed for image in photographs[candidate.sample_id])

    provenance = {
        "table": table.name,
        "sha256": file_hash(table),
        "licence": LICENCE,
        "images": images.folder.name if isinstance(images, Folder) else "web",
        "prompts": {"file": prompts.name, "sha256": file_hash(prompts)} if prompts else None,
        "rephrased": {"model": rephrase.model, "log": rephrase.log.name} if rephrase else None,
    }
    if isinstance(images, Web):  # what an address gave is kept under its name, so that it needs no hash
        return Source("svo_probes", mixed(candidates, seed), left_out, provenance, fetch=fetch)
    found = [path for both in photographs.values() for photograph in both if (path := images.find(photograph))]
    files = images_hash(images.folder, (path.relative_to(images.folder).as_posix() for path in found))
    return Source("svo_probes", mixed(candidates, seed), left_out, provenance, files)


def _question(row: Row, turned: bool, links: Links, given: str) -> Question:
    if not given:
        return ask(row.part, *row.triplets, links, row.sentence, turned=turned)
    options = options_in(given, row.part, *row.triplets)
    noun = row.triplets[0][2 if row.part == "subject" else 0]
    return Question(given, options, noun if noun in given.split() else "", ())


def _sample(row: Row, clean: int, question: Question, images: Folder | Web, rephrase: Rephraser | None) -> dict[str, Any]:
    order = (clean, 1 - clean)
    correct, incorrect = (question.options[i] for i in order)
    clean_image, corrupt_image = (images.open(row.photographs[i]) for i in order)
    clean_attributes, corrupt_attributes = (json.dumps([dict(zip(PARTS, row.triplets[i], strict=True))]) for i in order)
    return {
        "question": rephrase(question.text, question.words) if rephrase else question.text,
        "correct_answer": correct,
        "incorrect_answer": incorrect,
        "noun": question.noun,
        "clean_image": clean_image,
        "corrupt_image": corrupt_image,
        "changed_attribute": row.part,
        "clean_attributes": clean_attributes,
        "corrupt_attributes": corrupt_attributes,
    }


def _row(number: int, where: str, record: dict[str, str]) -> Row:
    if record[FAULT]:
        raise SampleError(record[FAULT])
    part = _part(record)
    triplets = choose(part, read_triplets(record["pos_triplet"]), read_triplets(record["neg_triplet"]), record["sentence"])
    if any("person" in word.split() for triplet in triplets for word in triplet):
        raise Excluded("names a 'person', who may be a man, woman or child too")
    if not record["pos_url"] or not record["neg_url"]:
        raise SampleError("pos_url or neg_url is empty")
    if record["pos_url"] == record["neg_url"]:
        raise SampleError("pos_url and neg_url are the same")
    ids = (re.sub(r"(?<=\d)\.0+$", "", record[f"{side}_image_id"]) for side in ("pos", "neg"))  # a program read them as numbers: "2041.0"
    positive, negative = (Photograph(record[url], name) for url, name in zip(("pos_url", "neg_url"), ids, strict=True))
    return Row(number, where, record["sentence"], part, triplets, (positive, negative))


def _part(record: dict[str, str]) -> Part:
    """The part whose flag is true."""
    flags = {part: record[column].lower() for part, column in FLAGS.items()}
    if odd := [FLAGS[part] for part, flag in flags.items() if flag not in ("true", "false")]:
        raise SampleError(f"{odd[0]} is {record[odd[0]]!r}, not True or False")
    parts = [part for part, flag in flags.items() if flag == "true"]
    if len(parts) != 1:
        flagged = " and ".join(FLAGS[part] for part in parts) or "none"
        raise Excluded(f"of {', '.join(FLAGS.values())} exactly one must be True; here it is {flagged}")
    return parts[0]


def read_triplets(cell: str) -> list[Triplet]:
    """The triplets of a cell: "man,sit,grass", or a Python list of such texts, of which those without three words are passed over.

    Raises
    ------
    SampleError
        When it has none.
    """
    texts: Any = [cell]
    if cell.startswith("["):
        try:
            texts = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise SampleError(f"the triplets {cell!r} are not a list of texts") from error
    found = []
    for text in texts:
        words = [word.strip().lower() for word in str(text).split(",")]
        if len(words) == 3 and all(_WORD.fullmatch(word) for word in words):
            found.append((words[0], words[1], words[2]))
    if not found:
        raise SampleError(f"{cell!r} is not a triplet of subject, verb and object" if cell else "a triplet is empty")
    return found


def _listed(cell: str) -> list[Triplet]:
    try:
        return read_triplets(cell)
    except SampleError:
        return []


def choose(part: Part, positive: Sequence[Triplet], negative: Sequence[Triplet], sentence: str) -> tuple[Triplet, Triplet]:
    """The triplets to ask about: of several positive ones, what the sentence says; of several negative ones, the first that fits.

    Raises
    ------
    SampleError
        When the sentence expresses none of several, when no two differ in that part alone, or when one is true of both photographs.
    """
    said = [triplet for triplet in positive if expresses(sentence, triplet)] if len(positive) > 1 else positive
    if not said:
        raise Excluded(f"the sentence {sentence!r} says none of the positive triplets {', '.join(map(_joined, positive))}")
    pairs = [(first, second) for first in said for second in negative if _differences(first, second) == [part]]
    if not pairs:
        differences = " and ".join(_differences(said[0], negative[0])) or "nothing"
        raise Excluded(f"{_joined(said[0])} and {_joined(negative[0])} differ in {differences}, not in the {part} alone")
    clear = [(first, second) for first, second in pairs if second not in positive and first not in negative]
    if not clear:
        raise Excluded(f"{_joined(pairs[0][0])} or {_joined(pairs[0][1])} is true of both photographs")
    return clear[0]


def _differences(first: Triplet, second: Triplet) -> list[Part]:
    return [part for part, one, other in zip(PARTS, first, second, strict=True) if one != other]


def _joined(triplet: Triplet) -> str:
    return repr(",".join(triplet))


def read_prompts(path: Path, rows: int) -> dict[int, str]:
    """Questions of one's own by the number of their row.

    Raises
    ------
    SampleError
        For a file that is missing or without the columns, and with every line whose row does not exist or repeats.
    """
    given: dict[int, str] = {}
    problems = []
    for line, record in _read_csv(path, ("row", "question"), PROMPTS_LAYOUT):
        number = int(record["row"]) if record["row"].isdecimal() else 0
        if record[FAULT] or not 1 <= number <= rows or number in given or not record["question"]:
            why = record[FAULT] or f"row {record['row']!r} is no row of the table (1 to {rows}), repeats, or has no question"
            problems.append(f"line {line}: {why}")
        given[number] = record["question"]
    if problems:
        raise SampleError(f"{path}:", problems)
    return given


def _read_csv(path: Path, needed: Sequence[str], layout: str) -> list[Line]:
    """The rows of a table by column, in small letters; cells are "" where absent or NaN."""
    if not path.is_file():
        raise wrong_layout(path, "no such file", layout)
    columns, lines = read_delimited(path, short_rows=False)
    names = {column: column.lower() for column in columns}
    if missing := [name for name in needed if name not in names.values()]:
        raise wrong_layout(path, f"no column {', '.join(missing)}; found: {', '.join(columns)[:200]}", layout)
    absent = dict.fromkeys((*needed, *OPTIONAL), "")
    return [
        (line, absent | {names.get(name, name): "" if cell.lower() == "nan" else cell for name, cell in record.items()})
        for line, record in lines
    ]


if __name__ == "__main__":
    main(SvoProbes)
