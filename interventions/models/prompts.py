"""A question as a model reads it: its tokens, where each stands in the question, and which are the image's and the template's."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from corruptions.base import Prompt, Span


def tokenized(text: str, asked: Span, ids: Sequence[int], encoded: Mapping[str, Any], tokenizer: Any, image_token: int | None) -> Prompt:
    """Say what each token of a prompt is.

    Where each stands in the question is read off the text, which is the same but for the image's tokens: all of the question comes after
    them.

    Parameters
    ----------
    text : the prompt
    asked : where the question stands in it
    ids : the tokens that the processor makes of the prompt and an image
    encoded : what the tokenizer makes of the prompt alone, with its offsets
    image_token : the one that stands for a part of the image

    Raises
    ------
    ValueError
        When the processor makes something else of the question than the tokenizer.
    """
    start, stop = asked
    plain, offsets = encoded["input_ids"], encoded["offset_mapping"]
    inside = [i for i, (left, right) in enumerate(offsets) if start < right and left < stop]
    first = inside[0]
    shift = _last_place(ids, plain[first : inside[-1] + 1]) - first
    if shift + first < 0:
        raise ValueError(f"the processor and its tokenizer disagree on {text!r}: {ids} and {plain}")
    head = shared_start(ids, plain)
    begin = first + shift - shared_start(ids[: first + shift][::-1], plain[:first][::-1])
    end = first + shift + shared_start(ids[first + shift :], plain[first:])
    text += tokenizer.decode(ids[end:]) if end - shift == len(plain) else ""  # what the processor adds
    special = set(tokenizer.all_special_ids) - {image_token}
    spans: list[Span | None] = []
    words: list[str] = []
    kinds: list[str] = []
    for i, token in enumerate(ids):
        at = i if i < head else i - shift if begin <= i < end else None  # its place in the plain text
        left, right = offsets[at] if at is not None else (0, 0)
        left += len(text[left:right]) - len(text[left:right].lstrip())  # the blank before a word is not the word
        words.append(text[left:right] or tokenizer.convert_ids_to_tokens(token))
        if token == image_token:
            kinds.append("image")
        elif token in special or at is None:
            kinds.append("special" if token in special and at is not None else "template")
        else:
            kinds.append("question" if start <= left < right <= stop else _template_kind(text, stop, left))
        spans.append((left - start, right - start) if kinds[-1] == "question" else None)
    return Prompt(text, tuple(ids), tuple(spans), tuple(words), tuple(kinds))


def _template_kind(text: str, after: int, at: int) -> str:
    """What a token of the template at character `at` is: "assistant", from the answering side's name on, or "template"."""
    named = re.search("assistant|model", text[after:], re.IGNORECASE)
    return "assistant" if named and at >= after + named.start() else "template"


def _last_place(ids: Sequence[int], part: Sequence[int]) -> int:
    """The index at which `part` stands last in some tokens; -1 if nowhere."""
    starts = range(len(ids) - len(part), -1, -1)
    return next((i for i in starts if list(ids[i : i + len(part)]) == list(part)), -1)


def shared_start(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences share from their start on."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
