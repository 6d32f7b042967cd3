"""MIT-States: photographs of nouns in states ("sliced apple") -> questions such as "Is this apple sliced or moldy?".

In: the data set's folder `images`, one sub-folder "state noun" for each pair. Out: a sample table with the categories colour, shape and
texture, NOTICE's lists of states. The corrupt image shows the same noun in the other state.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from data_prep.tables.candidates import Preparation, Source, left_out_entry
from data_prep.tables.counterparts import LeftOutEntries, Picture, image_files, images_hash, mixed, pair_up, wrong_layout
from data_prep.tables.images import open_image
from data_prep.tables.readers import main, reader
from data_prep.tables.sample import Excluded, SampleError

LISTS = Path(__file__).parent / "wording" / "word_lists" / "mit_states.json"
LAYOUT = """\
  release_dataset/
    images/
      ancient building/*.jpg
      sliced apple/*.jpg
      ..."""


@reader(
    title="MIT-States",
    categories="colour, shape, texture",
    corrupt_image="the noun in another state",
)
@dataclass(kw_only=True)
class MitStates(Preparation):
    """Make a sample table of MIT-States.

    Each photograph asks for its state against another state of the same noun. States of one group of similar ones are never offered
    against each other; with word vectors, nor are two whose cosine reaches the median over all pairs of listed states.

    Example: python -m data_prep.mit_states --folder release_dataset --out data/mit_states --limit 500
    """

    folder: Path
    """The extracted data set, or its folder `images`."""
    out: Path = Path("data/mit_states")
    """Folder that receives the sample table; an older table there is replaced."""
    lists: Path = LISTS
    """JSON file of the categories' states, groups of similar states, and plural nouns; default: NOTICE's."""
    word_vectors: Path | None = None
    """Text file of word vectors (GloVe, word2vec). Counterparts are then dissimilar: cosine below the median over all listed states."""

    def read(self) -> Source:
        return read_mit_states(self.folder, lists=self.lists, word_vectors=self.word_vectors, seed=self.seed)


@dataclass(frozen=True)
class Lists:
    """States by category, groups of similar states, and nouns that are plural."""

    category: dict[str, str]
    similar: tuple[frozenset[str], ...]
    plural_nouns: frozenset[str]

    def may_oppose(self, first: str, second: str) -> bool:
        """Whether no group of similar states has both."""
        return not any(first in group and second in group for group in self.similar)


def read_mit_states(folder: Path, *, lists: Path = LISTS, word_vectors: Path | None = None, seed: int = 0) -> Source:
    """List the samples of MIT-States.

    Raises
    ------
    SampleError
        For a folder that is missing or has no folder of a listed state, and for lists or vectors that cannot be used.
    """
    words = read_lists(lists)
    root = folder / "images" if (folder / "images").is_dir() else folder
    if not root.is_dir():
        raise wrong_layout(folder, "no such folder", LAYOUT)
    may_oppose: Callable[[str, str], bool] = words.may_oppose
    known: Iterable[str] = words.category
    provenance: dict[str, Any] = {"folder": folder.name, "lists": json.loads(lists.read_text(encoding="utf-8"))}
    if word_vectors is not None:
        cosines = similarities(word_vectors, words.category)
        median = float(np.median(list(cosines.values())))
        known = {state for pair in cosines for state in pair}
        provenance |= {"word_vectors": word_vectors.name, "most_similar": median}

        def may_oppose(first: str, second: str) -> bool:
            return words.may_oppose(first, second) and cosines[frozenset((first, second))] < median

    nouns: dict[str, list[Picture]] = {}
    left_out: LeftOutEntries = []
    unasked: LeftOutEntries = []
    for path in sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        state, blank, noun = path.name.partition(" ")
        if why := _unusable(state, blank, words, known):
            unasked.append(left_out_entry(path.name, "", Excluded(why)))
            continue
        files, others = image_files(path, root)
        left_out += others or ([] if files else [{"sample": path.name, "reason": "the folder has no image"}])
        nouns.setdefault(noun, []).extend(_picture(root, file, state, noun, words) for file in files)
    if not any(nouns.values()):
        raise wrong_layout(root, "no folder named by a listed state and a noun has images", LAYOUT)

    candidates = []
    for noun, pictures in sorted(nouns.items()):
        paired, alone = pair_up(pictures, may_oppose, seed)
        candidates += paired
        states = ", ".join(repr(state) for state in sorted({picture.answer for picture in pictures}))
        reason = Excluded(f"no state of {noun!r} may be offered against it; there are: {states}")
        left_out += [left_out_entry(f"{state} {noun}", "", reason) for state in alone]
    images = images_hash(root, (picture.sample_id for pictures in nouns.values() for picture in pictures))
    return Source("mit_states", mixed(candidates, seed), [*left_out, *unasked], provenance, images)


def _unusable(state: str, blank: str, words: Lists, known: Iterable[str]) -> str:
    if not blank:
        return "the folder's name has no blank between a state and a noun"
    if state == "adj":
        return "the folder is of the noun in no particular state ('adj')"
    if state not in words.category:
        return f"the state {state!r} is in none of the lists"
    return "" if state in known else f"the state {state!r} has no word vector"


def _picture(root: Path, file: str, state: str, noun: str, words: Lists) -> Picture:
    template = "Are these {} {} or {}?" if noun in words.plural_nouns else "Is this {} {} or {}?"
    return Picture(
        sample_id=file,
        category=words.category[state],
        where=file,
        answer=state,
        open=partial(open_image, root / file, file),
        ask=partial(template.format, noun),
        columns=lambda _: {"noun": noun, "changed_attribute": "state"},
    )


def read_lists(path: Path) -> Lists:
    """Read the lists of states.

    Raises
    ------
    SampleError
        For a file that is missing or of another form, a state in two categories, and a similar word that no category has.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        categories = {str(name): list(states) for name, states in content["categories"].items()}
        similar = tuple(frozenset(group) for group in content["similar"])
        plural = frozenset(content["plural_nouns"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        form = '{"categories": {name: [states]}, "similar": [[states]], "plural_nouns": [nouns]}'
        raise SampleError(f"{path}: not lists of states, {form} ({error})") from error
    listed = [state for states in categories.values() for state in states]
    problems = [f"{state!r} is listed twice" for state in sorted(set(listed)) if listed.count(state) > 1]
    problems += [f"{state!r} is called similar, but is in no category" for state in sorted(frozenset().union(*similar) - set(listed))]
    if problems:
        raise SampleError(f"{path}:", problems)
    return Lists({state: name for name, states in categories.items() for state in states}, similar, plural)


def similarities(path: Path, words: Iterable[str]) -> dict[frozenset[str], float]:
    """The cosine of the vectors of each two of some words; words that the file lacks are absent.

    Raises
    ------
    SampleError
        For a file that is missing or not such a text, and when it has fewer than two of the words.
    """
    wanted = {word.encode(): word for word in words}
    vectors: dict[str, np.ndarray] = {}
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                word, _, numbers = line.partition(b" ")
                if word in wanted and wanted[word] not in vectors:
                    vectors[wanted[word]] = _unit(numbers, f"{path}, line {number}")
    except OSError as error:
        raise SampleError(f"{path}: the word vectors cannot be read ({error.strerror})") from error
    if len({len(vector) for vector in vectors.values()}) > 1:
        raise SampleError(f"{path}: the vectors differ in length")
    if len(vectors) < 2:
        raise SampleError(f"{path}: has vectors for {len(vectors)} of the {len(wanted)} listed states; is it a text file of word vectors?")
    return {frozenset(pair): float(vectors[pair[0]] @ vectors[pair[1]]) for pair in combinations(vectors, 2)}


def _unit(numbers: bytes, where: str) -> np.ndarray:
    try:
        vector = np.array(numbers.split(), float)
    except ValueError as error:
        raise SampleError(f"{where}: not a word and numbers with blanks between ({error})") from error
    norm = float(np.linalg.norm(vector))
    if not 0 < norm < np.inf:
        raise SampleError(f"{where}: the vector has the length {norm}, which gives no direction")
    return vector / norm


if __name__ == "__main__":
    main(MitStates)
