"""What every corruption shares: the clean/corrupt pair, the prompt that text corruptions are checked against, and the registry.

A corruption is one entry in one file of this folder: a `PairMaker`, decorated with `register`. The files are found by themselves. The facts
of the entries (`CORRUPTIONS`) are read without torch, datasets or transformers: a file imports such libraries where it uses them.
"""

import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from PIL import Image

import corruptions
from data_prep.tables.command import Fault
from data_prep.tables.images import open_image
from data_prep.tables.sample import Sample, option_spans

Span = tuple[int, int]
Modality = Literal["image", "text"]
WITHOUT = ("base", "options")  # files of this folder that hold no corruption


class LeftOut(Fault):
    """This sample, or every sample, cannot be corrupted so; the message is the reason that goes into the manifest."""


@dataclass(frozen=True)
class Prompt:
    """What a model reads for a question.

    Attributes
    ----------
    text : the whole prompt (an image stands in it as the model's image placeholder)
    ids : token ids, image tokens expanded
    spans : for each token, its characters in the *question*, or None for tokens outside it (template, special, image)
    words : the text of each token
    kinds : for each token: "question", "image", "special", "assistant" (names the answering side), "template" or "answer"
    """

    text: str
    ids: tuple[int, ...]
    spans: tuple[Span | None, ...]
    words: tuple[str, ...]
    kinds: tuple[str, ...]

    def positions(self, span: Span) -> tuple[int, ...]:
        """The tokens that share a character with `span` of the question."""
        return tuple(i for i, token in enumerate(self.spans) if token and token[0] < span[1] and span[0] < token[1])


Tokenize = Callable[[str], Prompt]


@dataclass(frozen=True)
class Pair:
    """A sample with its clean and its corrupt input. Either the two images or the two questions are equal, or both, where the corruption
    changes embeddings.

    Images are columns of the sample's, or the corrupt one is a file; they are read when they are asked for: many pairs may be held at once.
    """

    sample: Sample
    corrupt_image_from: Literal["clean_image", "corrupt_image"] | Path
    corrupt_question: str
    clean_options: tuple[Span, Span]
    corrupt_options: tuple[Span, Span]

    @property
    def clean_image(self) -> Image.Image:
        return self.sample["clean_image"]

    @property
    def corrupt_image(self) -> Image.Image:
        source = self.corrupt_image_from
        return open_image(source) if isinstance(source, Path) else self.sample[source]

    @property
    def clean_question(self) -> str:
        return self.sample["question"]


def noun_span(question: str, noun: str, options: tuple[Span, Span]) -> Span | None:
    """Where a noun stands in a question: its last occurrence before the options, else after or between them; None if nowhere else."""
    spans = [match.span() for match in re.finditer(rf"\b{re.escape(noun)}\b", question, re.IGNORECASE)] if noun else []
    outside = [(start, end) for start, end in spans if all(end <= a or b <= start for a, b in options)]
    return max([span for span in outside if span[1] <= min(options)[0]] or outside, default=None)


@dataclass(frozen=True)
class NoOptions:
    """The options of a corruption that has none."""


class PairMaker(ABC):
    """Makes the pairs of one data set under one corruption.

    Parameters
    ----------
    samples : every sample of the data set, for a corruption that draws from them
    seed : of what is drawn
    options : of the class that the corruption is registered with; None for its defaults
    device : where a diffusion model runs

    Raises
    ------
    ValueError
        Options that cannot be used, before any work.
    """

    def __init__(self, samples: Iterable[Sample] = (), seed: int = 0, options: Any = None, device: str = "auto") -> None:
        self.seed = seed

    @property
    def configuration(self) -> dict[str, Any]:
        """What the pairs depend on besides data set, tokenizer and seed."""
        return {}

    @abstractmethod
    def corrupt(self, sample: Sample, tokenize: Tokenize) -> Pair:
        """The pair of a sample; raises `LeftOut` with the reason when there is none."""


class CleanInputs(PairMaker):
    """Pairs for a corruption of embeddings: both runs read the clean inputs, and `interventions.engine` changes the corrupt run's
    embeddings."""

    def corrupt(self, sample: Sample, tokenize: Tokenize) -> Pair:
        options = option_spans(sample["question"], sample["correct_answer"], sample["incorrect_answer"])
        return Pair(sample, "clean_image", sample["question"], options, options)


@dataclass(frozen=True)
class Corruption:
    """One way to make the corrupt run.

    Attributes
    ----------
    name : what options and results call it
    modality : what it changes
    sentence : what the corrupt run gets, in words that follow "the corrupt run"
    maker : the class that makes its pairs
    options : a frozen dataclass, each field with a docstring, which becomes part of every command line; field names are unique
    embeddings : what the modality's embeddings become in the corrupt run: "noisy", their "mean" over the data set, or "zero"; "" where the
        inputs themselves are changed
    default : taken, among those of its modality, where no other is asked for (NOTICE's own)
    """

    name: str
    modality: Modality
    sentence: str
    maker: type[PairMaker]
    options: type[Any] = NoOptions
    embeddings: Literal["", "noisy", "mean", "zero"] = ""
    default: bool = False

    @property
    def draws(self) -> bool:
        """Whether it draws noise, of which a sample has several corrupt runs."""
        return self.embeddings == "noisy"

    @property
    def measures_embeddings(self) -> bool:
        """Whether its corrupt runs depend on the embeddings of the data set's clean runs."""
        return self.embeddings in ("noisy", "mean")

    def make(self, samples: Iterable[Sample] = (), seed: int = 0, options: Any = None, device: str = "auto") -> PairMaker:
        """The pairs' maker for a data set (see `PairMaker`); `options` is of any class that has the fields of the corruption's."""
        return self.maker(samples, seed, self._chosen(options), device)

    def configuration(self, options: Any = None) -> dict[str, Any]:
        """What its pairs depend on besides data set, tokenizer and seed; raises as `make` does, so it checks options before any work."""
        return self.make(options=options).configuration

    def run_configuration(self, options: Any = None) -> dict[str, Any]:
        """What its corrupt runs depend on besides their pairs: the options of a corruption of embeddings."""
        return asdict(self._chosen(options)) if self.embeddings else {}

    def _chosen(self, options: Any) -> Any:
        if options is None:
            return self.options()
        return self.options(**{field.name: getattr(options, field.name) for field in fields(self.options)})


class Registry(Mapping[str, Corruption]):
    """The corruptions by name, the default ones first, then by file. The files of this folder are read when it is first asked."""

    def __init__(self) -> None:
        self._entries: dict[str, Corruption] = {}
        self._discovered = False

    def add(self, entry: Corruption) -> None:
        """Add an entry.

        Raises
        ------
        ValueError
            The name is taken.
        """
        if entry.name in self._entries:
            raise ValueError(f"the corruption {entry.name!r} is registered already, by {self._entries[entry.name].maker.__module__}")
        self._entries[entry.name] = entry
        self._entries = dict(sorted(self._entries.items(), key=lambda item: (not item[1].default, item[1].maker.__module__)))

    def discover(self) -> None:
        """Import the files of this folder that are not imported yet."""
        self._discovered = True
        for module in pkgutil.iter_modules(corruptions.__path__):
            if not module.ispkg and module.name not in WITHOUT:
                importlib.import_module(f"corruptions.{module.name}")

    def __getitem__(self, name: str) -> Corruption:
        if not self._discovered:
            self.discover()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        if not self._discovered:
            self.discover()
        return iter(self._entries)

    def __len__(self) -> int:
        return sum(1 for _ in self)


CORRUPTIONS = Registry()
Maker = TypeVar("Maker", bound=type[PairMaker])


def register(
    name: str,
    modality: Modality,
    sentence: str,
    *,
    options: type[Any] = NoOptions,
    embeddings: Literal["", "noisy", "mean", "zero"] = "",
    default: bool = False,
) -> Callable[[Maker], Maker]:
    """Make a class of pairs' makers a corruption (see `Corruption` for the arguments).

    >>> @register("upside_down", "image", "sees the image turned by 180 degrees")
    ... class UpsideDown(PairMaker): ...
    """

    def decorate(maker: Maker) -> Maker:
        CORRUPTIONS.add(Corruption(name, modality, sentence, maker, options, embeddings, default))
        return maker

    return decorate


def named(name: str) -> Corruption:
    """The corruption called `name`; raises ValueError, which names those there are."""
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}; choose from {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name]


def default(modality: Modality) -> str:
    """The corruption of a modality that is taken where no other is asked for."""
    return next(name for name, entry in CORRUPTIONS.items() if entry.modality == modality)


def help_text() -> str:
    """One sentence a corruption, for command lines."""
    return "The corrupt run " + "; ".join(f"{entry.sentence}: {name} ({entry.modality})" for name, entry in CORRUPTIONS.items()) + "."


def table() -> str:
    """The table of the corruptions in Markdown."""
    rows = [f"| `{name}` | {entry.modality} | {entry.sentence} |" for name, entry in CORRUPTIONS.items()]
    return "\n".join(["| name | modality | the corrupt run |", "| --- | --- | --- |", *rows])
