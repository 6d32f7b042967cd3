"""Token roles: what each position of a prompt is in its question. Roles line samples up; positions don't."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from corruptions.base import Pair, Prompt, Span, noun_span

ROLES = {
    "[CLS]": "the first special token of an encoder's prompt",
    "[BOS]": "the first special token of a causal decoder's prompt",
    "image": "the image tokens of a causal decoder's prompt, together",
    "template": "the prompt's fixed text around the question",
    "question": "a word of the question that has no role of its own",
    "noun": "the thing that the question is about",
    "correct": "the correct option",
    "or": "the word between the options",
    "incorrect": "the incorrect option",
    "?": "the question mark",
    "[SEP]": "the last special token of an encoder's prompt",
    "assistant": 'the name of the answering side ("ASSISTANT")',
    "start": "the token from which an answer decoder starts",
    "patch": "a patch of the image, or its class token, in a vision tower",
    "query": "a query token of a Q-Former",
    "answer": "what the model is given of the answer",
    "last": "the last token of a causal decoder's prompt, from which the answer is read",
}

EVERY = "every"  # instead of roles: each token of the prompt by itself


@dataclass(frozen=True)
class Cell:
    """One place of a prompt that is patched at once: a role, its text and its positions."""

    role: str
    text: str
    positions: tuple[int, ...]


def roles(prompt: Prompt, pair: Pair, causal: bool) -> list[str]:
    """The role of each position of the clean prompt (see `ROLES`)."""
    names = [_plain_role(prompt, i, causal) for i in range(len(prompt.ids))]
    noun = noun_span(pair.clean_question, pair.sample["noun"], pair.clean_options)
    named = {"noun": noun, "or": _or(pair), "correct": pair.clean_options[0], "incorrect": pair.clean_options[1]}
    for role, span in named.items():
        for position in prompt.positions(span) if span else ():
            names[position] = role
    if causal:
        names[-1] = "last"
    return names


def every_token(prompt: Prompt, names: Sequence[str]) -> list[Cell]:
    """One cell a token, in order; all image tokens are one cell."""
    image = tuple(i for i, name in enumerate(names) if name == "image")
    single = [(name, prompt.words[i], (i,)) for i, name in enumerate(names)]
    return [Cell(name, text, image if name == "image" else at) for name, text, at in single if name != "image" or at[0] == image[0]]


def tokens_of_roles(prompt: Prompt, names: Sequence[str], wanted: Sequence[str]) -> list[Cell]:
    """One cell a wanted role, holding all its positions; "all" is every position at once.

    Raises
    ------
    ValueError
        When the prompt has no token of a wanted role; names the roles it has.
    """
    cells = []
    for role in wanted:
        positions = tuple(i for i, name in enumerate(names) if role in (name, "all"))
        if not positions:
            raise ValueError(f"no token has the role {role!r}; the prompt has {', '.join(dict.fromkeys(names))} (or all)")
        text = "" if role in ("all", "image") else " ".join(prompt.words[i] for i in positions)
        cells.append(Cell(role, text, positions))
    return cells


def _plain_role(prompt: Prompt, position: int, causal: bool) -> str:
    kind, word = prompt.kinds[position], prompt.words[position]
    if kind == "special":
        return "[SEP]" if position else "[BOS]" if causal else "[CLS]"
    return "?" if kind == "question" and word == "?" else kind


def _or(pair: Pair) -> Span | None:
    (_, start), (end, _) = sorted(pair.clean_options)
    match = re.search(r"\bor\b", pair.clean_question[start:end], re.IGNORECASE)
    return (start + match.start(), start + match.end()) if match else None
