"""Paths from a sender head to a receiver: how they are written, and which of them there can be.

A head is written L3.H2: head 2 of layer 3. A receiver is `answer`, or a later head: L5.H1 is all that it reads, L5.H1.q its queries alone,
.k its keys, .v its values.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from interventions.engine.plan import Heads, all_heads
from interventions.models.vlm import Vlm

WHOLE = ""  # all that a head reads
ANSWER = "answer"


class PathError(ValueError):
    """A sender or a receiver that cannot be: says what is wrong and what to write."""


@dataclass(frozen=True)
class Head:
    """A head of an attention component."""

    layer: int
    number: int

    def __str__(self) -> str:
        return f"L{self.layer}.H{self.number}"


@dataclass(frozen=True)
class Receiver:
    """Where a path ends.

    Attributes
    ----------
    head : None for the answer
    input : which of the head's inputs receives, by its name in `Attention.inputs`; `WHOLE` for all of them
    """

    head: Head | None
    input: str = WHOLE

    def __str__(self) -> str:
        if self.head is None:
            return ANSWER
        return f"{self.head}.{self.input}" if self.input else str(self.head)


@dataclass(frozen=True)
class Ends:
    """The attention components whose heads send and receive."""

    sending: str
    receiving: str

    def reaches(self, vlm: Vlm, sender: Head, receiver: Receiver) -> bool:
        """Whether the receiver is computed after the sender: in a later layer, or by a later attention of the same layer."""
        if receiver.head is None:
            return True
        order = list(vlm.architecture.attention)
        return (sender.layer, order.index(self.sending)) < (receiver.head.layer, order.index(self.receiving))


def parse_head(text: str, vlm: Vlm, component: str) -> Head:
    """The head that a text such as L3.H2 names.

    Raises
    ------
    PathError
        When it names none, or one that the model does not have.
    """
    match = re.fullmatch(r"L(\d+)\.H(\d+)", text)
    if not match:
        raise PathError(f"{text!r} is no head: write L<layer>.H<head>, such as L3.H2")
    layer, number = map(int, match.groups())
    heads = all_heads(vlm, component)
    if (layer, number) not in heads:
        layers = sorted({layer for layer, _ in heads})
        raise PathError(
            f"{vlm.name} has no {component} head {text}: it has heads 0 to {vlm.n_heads - 1} in the layers {', '.join(map(str, layers))}"
        )
    return Head(layer, number)


def parse_receiver(text: str, vlm: Vlm, component: str) -> Receiver:
    """The receiver that a text such as answer, L5.H1 or L5.H1.q names.

    Raises
    ------
    PathError
        As for `parse_head`, and when the head has no such input.
    """
    if text == ANSWER:
        return Receiver(None)
    match = re.fullmatch(r"(L\d+\.H\d+)(?:\.(\w+))?", text)
    if not match:
        raise PathError(f"{text!r} is no receiver: write answer, L<layer>.H<head> or, for one of its inputs, L<layer>.H<head>.q")
    head, inputs = parse_head(match[1], vlm, component), vlm.architecture.attention[component].inputs
    if match[2] and match[2] not in inputs:
        choices = " or ".join(f"{head}.{name}" for name in inputs)
        raise PathError(f"{text}: {component} of {vlm.architecture.name} reads no {match[2]} from the layers before it; write {choices}")
    return Receiver(head, match[2] or WHOLE)


def default_receivers(vlm: Vlm, ends: Ends, senders: Sequence[Head], ranked: Heads, count: int) -> tuple[Receiver, ...]:
    """The answer, after the first `count` ranked heads that some sender reaches, in the order of the model."""
    every = (Receiver(Head(*head)) for head in ranked)
    reached = [receiver for receiver in every if any(ends.reaches(vlm, sender, receiver) for sender in senders)][:count]
    return (*sorted(reached, key=lambda receiver: (receiver.head.layer, receiver.head.number)), Receiver(None))  # type: ignore[union-attr]


def check_component(vlm: Vlm, component: str) -> None:
    """Raise ValueError for a component whose heads can be no ends of paths: all attention must be described, to be frozen."""
    architecture = vlm.architecture
    if component not in architecture.attention:
        raise ValueError(f"{component!r} of {architecture.name} has no heads; choose from {', '.join(architecture.attention)}")
    if "self_attention" not in architecture.attention:
        raise ValueError(
            f"paths need every attention of a layer held as it was, and the self-attention of {architecture.name} is not described"
        )
    layers = [layer for number, layer in enumerate(vlm.layers) if component in vlm.components_of(number)]
    inputs = architecture.attention[component].inputs
    if not inputs or not all(port.exists(layer) for layer in layers for port in inputs.values()):
        raise ValueError(f"the modules that make queries, keys and values in the {component} of {architecture.name} are not described")


def no_duplicates(texts: Sequence[str]) -> None:
    """Raise `PathError` where a sender or a receiver is named twice."""
    if twice := next((text for index, text in enumerate(texts) if text in texts[:index]), None):
        raise PathError(f"{twice} is named twice")
