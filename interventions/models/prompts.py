"""A question as a model reads it: its tokens, where each stands in the question, and which are the image's and the template's."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from corruptions.base import Prompt, Span

if TYPE_CHECKING:
    from interventions.models.vlm import Vlm


def tokenized(vlm: "Vlm", question: str) -> Prompt:
    """Tokenize a question as the model reads it, and say what each token is.

    The ids are those that the processor itself makes of the prompt and an image. Where each stands in the question is read off
    the text, which is the same but for the image's tokens: all of the question comes after them.

    Raises
    ------
    ValueError
        When the processor makes something else of the question than the tokenizer.
    """
    text, start = vlm.template(question)
    encoded = vlm.processor.tokenizer(text, return_offsets_mapping=True, **vlm.adding_special_tokens(text))
    plain, offsets = encoded["input_ids"], encoded["offset_mapping"]
    ids = vlm.processed(text, vlm.square(vlm.blank))["input_ids"][0].tolist()
    asked = [i for i, (left, right) in enumerate(offsets) if start < right and left < start + len(question)]
    shift = _last_place(ids, plain[asked[0] : asked[-1] + 1]) - asked[0]
    if shift + asked[0] < 0:
        raise ValueError(f"{vlm.name}: the processor and its tokenizer disagree on {text!r}: {ids} and {plain}")
    head = shared_start(ids, plain)
    begin = asked[0] + shift - shared_start(ids[: asked[0] + shift][::-1], plain[: asked[0]][::-1])
    end = asked[0] + shift + shared_start(ids[asked[0] + shift :], plain[asked[0] :])
    text += vlm.processor.tokenizer.decode(ids[end:]) if end - shift == len(plain) else ""  # what the processor adds
    special = set(vlm.processor.tokenizer.all_special_ids) - {vlm.image_token_id}
    spans: list[Span | None] = []
    words: list[str] = []
    kinds: list[str] = []
    for i, token in enumerate(ids):
        at = i if i < head else i - shift if begin <= i < end else None  # its place in the plain text
        left, right = offsets[at] if at is not None else (0, 0)
        left += len(text[left:right]) - len(text[left:right].lstrip())  # the blank before a word is not the word
        inside = start <= left < right <= start + len(question)
        words.append(text[left:right] or vlm.processor.tokenizer.convert_ids_to_tokens(token))
        if token == vlm.image_token_id:
            kinds.append("image")
        elif token in special or at is None:
            kinds.append("special" if token in special and at is not None else "template")
        else:
            kinds.append("question" if inside else _template_kind(text, start + len(question), left))
        spans.append((left - start, right - start) if kinds[-1] == "question" else None)
    return Prompt(text, tuple(ids), tuple(spans), tuple(words), tuple(kinds))


def _template_kind(text: str, after: int, at: int) -> str:
    """What a token of the template at character `at` is: "assistant", from the answering side's name on, or "template"."""
    named = re.search("assistant|model", text[after:], re.IGNORECASE)
    return "assistant" if named and at >= after + named.start() else "template"


def _last_place(ids: Sequence[int], part: Sequence[int]) -> int:
    """Where `part` stands last in some tokens; -1 if nowhere."""
    places = (i for i in range(len(ids) - len(part), -1, -1) if list(ids[i : i + len(part)]) == list(part))
    return next(places, -1)


def shared_start(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences share from their start on."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
