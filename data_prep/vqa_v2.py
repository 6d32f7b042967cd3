"""VQA v2: its complementary pairs, one question on two similar images with two answers -> "What is the man holding, frisbee or bat?".

In: the questions, annotations and complementary pairs of a split (JSON), and COCO's images. Out: a sample table with one sample for each
pair; which image is the clean one is drawn.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from data_prep.tables.candidates import Candidate, Preparation, Source, correct_comes_first, left_out_entry, rng_of
from data_prep.tables.coco import find_images
from data_prep.tables.counterparts import LeftOutEntries, file_hash, images_hash, wrong_layout
from data_prep.tables.images import open_image
from data_prep.tables.readers import main, reader
from data_prep.tables.sample import Excluded, SampleError, option_spans

FILES = {
    "questions": "v2_OpenEnded_mscoco_{}2014_questions.json",
    "annotations": "v2_mscoco_{}2014_annotations.json",
    "pairs": "v2_mscoco_{}2014_complementary_pairs.json",
}
LAYOUT = """\
  vqa_v2/
    v2_OpenEnded_mscoco_{0}2014_questions.json
    v2_mscoco_{0}2014_annotations.json
    v2_mscoco_{0}2014_complementary_pairs.json
    {0}2014/
      COCO_{0}2014_000000458752.jpg
      ..."""
ANSWER_TYPES = {"yes/no": "yes-no", "number": "number", "other": "other"}  # a category's name has no slash
NO_OPTIONS = {"can't tell", "don't know", "i don't know", "n/a", "no idea", "none", "not sure", "nothing", "unclear", "unknown", "unsure"}
ANNOTATORS = 10

_OPTION = re.compile(r"[\w'&.:$%/-]+( [\w'&.:$%/-]+){0,2}")


@reader(
    title="VQA v2",
    categories="answer or question types",
    corrupt_image="the image of the complementary pair",
)
@dataclass(kw_only=True)
class VqaV2(Preparation):
    """Make a sample table of VQA v2's complementary pairs.

    The options of a question are the most frequent answers for its two images ("yes or no" where that is what is asked). A pair is
    left out where an annotator of one image gave the other's answer, where the answers share a word or are no options ("unknown", a
    number that is not in digits), and where the question has one of them in it or asks several things.

    Reading the training split takes 1 GB of memory.

    Example: python -m data_prep.vqa_v2 --folder vqa_v2 --split val --out data/vqa_v2 --limit 500
    """

    folder: Path
    """Folder of the three JSON files."""
    split: Literal["train", "val"] = "train"
    """Part of the data; the test split has no answers."""
    images: Path | None = None
    """Folder of COCO's images, named by their ids; default: train2014 or val2014 in the folder."""
    categories: Literal["answer_type", "question_type"] = "answer_type"
    """What a category is: yes-no, number and other; or the first words of the question ("what color is the"), 65 in all. With
    question types, a text corruption draws other options of the same kind; questions with yes and no have no others to draw."""
    agreement: int = 3
    """At least so many of the ten annotators gave the answer (VQA counts an answer as right when three did)."""
    out: Path = Path("data/vqa_v2")
    """Folder that receives the sample table; an older table there is replaced."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.agreement <= ANNOTATORS:
            raise SampleError(f"agreement is {self.agreement}: there are {ANNOTATORS} annotators")

    def read(self) -> Source:
        return read_vqa_v2(self)


@dataclass(frozen=True)
class Answered:
    """A question on an image, with its most frequent answer and all that were given."""

    image: int
    question: str
    question_type: str
    answer_type: str
    answer: str
    given: tuple[str, ...]


def read_vqa_v2(options: VqaV2) -> Source:
    """List the samples of a split.

    Raises
    ------
    SampleError
        For a file or folder that is missing or of another form.
    """
    paths = {name: options.folder / file.format(options.split) for name, file in FILES.items()}
    for path in paths.values():
        if not path.is_file():
            raise wrong_layout(path, "no such file", LAYOUT.format(options.split))
    root = options.images or options.folder / f"{options.split}2014"
    images = find_images(root)
    left_out: LeftOutEntries = []
    questions = _by_id(paths["questions"], "questions", left_out)
    annotations = _by_id(paths["annotations"], "annotations", left_out)
    pairs = _load(paths["pairs"])
    if not isinstance(pairs, list):
        raise SampleError(f"{paths['pairs']}: not a list of pairs of question ids")
    candidates, used = [], set()
    first: dict[frozenset[int], int] = {}
    for number, pair in enumerate(pairs, 1):
        where = f"{paths['pairs'].name}, pair {number}"
        sample_id = "-".join(map(str, pair)) if isinstance(pair, list) else str(pair)
        try:
            if not (isinstance(pair, list) and len(pair) == 2 and all(type(name) is int for name in pair)):
                raise SampleError("not two question ids")
            if first.setdefault(frozenset(pair), number) != number:
                raise Excluded(f"the same as pair {first[frozenset(pair)]}")
            both = [_answered(questions.get(name), annotations.get(name), name) for name in pair]
            _check(both[0], both[1], options.agreement)
            if absent := [one.image for one in both if one.image not in images]:
                raise SampleError(f"there is no image of the id {absent[0]}")
            clean, corrupt = both if rng_of(options.seed, "clean", sample_id).integers(2) else both[::-1]
            names = (clean.answer, corrupt.answer) if correct_comes_first(options.seed, sample_id) else (corrupt.answer, clean.answer)
            row = {"question": _two_choice(clean.question, *names), "correct_answer": clean.answer, "incorrect_answer": corrupt.answer}
        except SampleError as error:
            left_out.append(left_out_entry(sample_id, where, error))
            continue
        category = ANSWER_TYPES[clean.answer_type] if options.categories == "answer_type" else clean.question_type
        make = partial(_row, row, images[clean.image], images[corrupt.image])
        candidates.append(Candidate(sample_id, category, where, make))
        used |= {images[one.image].relative_to(root).as_posix() for one in both}
    provenance = {name: getattr(options, name) for name in ("split", "categories", "agreement")}
    provenance |= {"files": {path.name: file_hash(path) for path in paths.values()}}
    return Source("vqa_v2", candidates, left_out, provenance, images_hash(root, used))


def _row(row: Mapping[str, str], clean: Path, corrupt: Path) -> dict[str, Any]:
    return {**row, "clean_image": open_image(clean, clean.name), "corrupt_image": open_image(corrupt, corrupt.name)}


def _load(path: Path) -> Any:
    def shorter(record: dict[str, Any]) -> Any:
        """Of what an annotator gave, the answer alone: millions of them are read."""
        return sys.intern(str(record["answer"])) if "answer_confidence" in record and "answer" in record else record

    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, object_hook=shorter)
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{path}: not JSON ({error})") from error


def _by_id(path: Path, name: str, left_out: LeftOutEntries) -> dict[int, dict[str, Any]]:
    """The records of a file by question id."""
    table = _load(path)
    if not isinstance(table, dict) or not isinstance(table.get(name), list):
        raise SampleError(f'{path}: not a file of VQA v2, {{"{name}": [...], ...}}')
    found: dict[int, dict[str, Any]] = {}
    for number, record in enumerate(table[name], 1):
        question_id = record.get("question_id") if isinstance(record, dict) else None
        if not isinstance(question_id, int) or question_id in found:
            why = "its question_id is already used" if isinstance(question_id, int) else "no question_id that is a number"
            left_out.append({"sample": str(question_id), "reason": f"{path.name}, {name} {number}: {why}"})
        else:
            found[question_id] = record
    return found


def _answered(question: Mapping[str, Any] | None, annotation: Mapping[str, Any] | None, question_id: int) -> Answered:
    """A question joined to its annotation."""
    if question is None or annotation is None:
        raise SampleError(f"the question {question_id} has no {'text' if question is None else 'annotation'}")
    try:
        found = Answered(
            image=int(question["image_id"]),
            question=" ".join(question["question"].split()),
            question_type=annotation["question_type"],
            answer_type=annotation["answer_type"],
            answer=_answer(annotation["multiple_choice_answer"]),
            given=tuple(_answer(answer) for answer in annotation["answers"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SampleError(f"the question {question_id} lacks something ({error!r})") from error
    if annotation.get("image_id") != found.image:
        raise SampleError(f"the question {question_id} is on image {found.image}, its annotation on {annotation.get('image_id')}")
    if found.answer_type not in ANSWER_TYPES:
        raise SampleError(f"the answer type {found.answer_type!r} is not one of {', '.join(ANSWER_TYPES)}")
    return found


def _answer(text: str) -> str:
    return " ".join(text.lower().split())


def _check(one: Answered, other: Answered, agreement: int) -> None:
    """Stop unless the two have the same question and answers that exclude each other."""
    if one.question.casefold() != other.question.casefold():
        raise SampleError(f"two questions: {one.question!r} and {other.question!r}")
    if one.answer_type != other.answer_type or one.question_type != other.question_type:
        raise Excluded(f"two types: {one.answer_type!r}, {one.question_type!r} and {other.answer_type!r}, {other.question_type!r}")
    for this in (one, other):
        if this.given.count(this.answer) < agreement:
            raise Excluded(f"{this.given.count(this.answer)} annotators gave {this.answer!r}, fewer than {agreement}")
        yes_no = this.answer in ("yes", "no")
        if (
            yes_no != (this.answer_type == "yes/no")
            or (this.answer_type == "number" and not this.answer.isdecimal())
            or this.answer in NO_OPTIONS
            or not _OPTION.fullmatch(this.answer)
            or "or" in this.answer.split()
        ):
            raise Excluded(f"{this.answer!r} is not an option for a question of the type {this.answer_type!r}")
    if one.answer == other.answer:
        raise Excluded(f"both images have the answer {one.answer!r}")
    if {word.rstrip("s") for word in one.answer.split()} & {word.rstrip("s") for word in other.answer.split()}:
        raise Excluded(f"the answers {one.answer!r} and {other.answer!r} have a word in common")
    for this, that in ((one, other), (other, one)):
        if that.answer in this.given:
            raise Excluded(f"{that.answer!r}, the answer for image {that.image}, was also given for image {this.image}")


def _two_choice(question: str, first: str, second: str) -> str:
    """The question with two options; as it is where it names them already."""
    text = question.rstrip(" ?.!")
    if not text or "?" in text:
        raise Excluded(f"{question!r} is not one question")
    named = []
    for answer in (first, second):
        if re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE):
            named.append(answer)
    own = re.search(r"\bor\b", text, re.IGNORECASE)
    if not named and not own:
        return f"{text[0].upper()}{text[1:]}, {first} or {second}?"
    if own and len(named) == 2:
        (_, end), (start, _) = sorted(option_spans(text, first, second))
        if re.fullmatch(r",? or (an? |the |in |on )?", text[end:start], re.IGNORECASE):
            return f"{text[0].upper()}{text[1:]}?"
    what = f"the answer {named[0]!r} in it" if named else "options of its own"
    raise Excluded(f"the question {question!r} has {what}")


if __name__ == "__main__":
    main(VqaV2)
