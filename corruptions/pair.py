"""A clean/corrupt pair of inputs, and the tokenized prompt that text corruptions are checked against."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from PIL import Image

from data_prep.tables.images import open_image
from data_prep.tables.sample import Sample

Span = tuple[int, int]


class LeftOut(Exception):
    """This sample cannot be corrupted so; the message is the reason that goes into the manifest."""


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
        return tuple(i for i, own in enumerate(self.spans) if own and own[0] < span[1] and span[0] < own[1])


Tokenize = Callable[[str], Prompt]


@dataclass(frozen=True)
class Pair:
    """A sample with its clean and its corrupt input. Either the two images or the two questions are equal, or both where noise corrupts.

    Images are columns of the sample's, or the corrupt one is a file; they are read when they are asked for: many pairs may be held at once.
    """

    sample: Sample
    corrupt_image_from: Literal["clean_image", "corrupt_image"] | Path
    corrupt_question: str
    clean_options: tuple[Span, Span]
    corrupt_options: tuple[Span, Span]
    noise: Literal["", "image", "text"] = ""  # the embeddings that are not the clean ones in the corrupt run
    becomes: Literal["noisy", "mean", "zero"] = "noisy"  # what they are instead

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
    found = [match.span() for match in re.finditer(rf"\b{re.escape(noun)}\b", question, re.IGNORECASE)] if noun else []
    outside = [(start, end) for start, end in found if all(end <= a or b <= start for a, b in options)]
    return max([span for span in outside if span[1] <= min(options)[0]] or outside, default=None)


class Corruption(Protocol):
    """One way to make the corrupt run."""

    name: str
    modality: Literal["image", "text"]

    def corrupt(self, sample: Sample, tokenize: Tokenize) -> Pair:
        """The pair for a sample; raises `LeftOut` with the reason when there is none."""
        ...
