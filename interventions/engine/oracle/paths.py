"""Path patching: one path at a time, each of its runs one whole trace."""

from dataclasses import replace
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from nnsight import save
from torch import Tensor

from interventions.engine.capture import BASE, Example
from interventions.engine.oracle.patching import source_states
from interventions.engine.oracle.runs import add_noise, answers_of, columns_of, inputs_of
from interventions.engine.oracle.verify import chosen, hold
from interventions.engine.paths import Paths
from interventions.engine.plan import Patch
from interventions.models.vlm import Vlm, measure


def run_plain(vlm: Vlm, example: Example, paths: Paths) -> Float[Tensor, " measurement"]:
    """The measurements of one path: the first sender's to the first receiver."""
    sender, receiver = paths.senders[0], paths.receivers[0]
    of_source = source_states(vlm, example, Patch(paths.ends.sending, (sender.layer,), sender.number, paths.positions))[sender.layer]
    held = [*vlm.architecture.attention, *(["mlp"] if paths.freeze_mlps else [])]
    ports = vlm.architecture.attention[paths.ends.receiving].inputs
    received = [port for name, port in ports.items() if receiver.input in ("", name)]
    answers, columns = answers_of(vlm, example), columns_of(vlm, sender.number)

    with torch.no_grad(), vlm.model.trace(**inputs_of(vlm, example, BASE)):
        add_noise(vlm, example, BASE)
        base: dict[tuple[int, str], Tensor] = save({})
        for number, layer in enumerate(vlm.layers):
            for component in vlm.components_of(number):
                if component in held:
                    base[number, component] = vlm.port(component).read(layer).clone()

    with torch.no_grad(), vlm.model.trace(**inputs_of(vlm, example, BASE)):
        add_noise(vlm, example, BASE)
        changed: list[Any] = save([])
        for number, layer in enumerate(vlm.layers):
            for component in vlm.components_of(number):
                if receiver.head and (number, component) == (receiver.head.layer, paths.ends.receiving):
                    for port in received:
                        changed.append(port.read(layer).clone())
                if component in held:
                    state = base[number, component].clone()
                    if (number, component) == (sender.layer, paths.ends.sending):
                        state[0, list(paths.positions), columns] = of_source[list(paths.positions), columns]
                    vlm.port(component).write(layer, state)
        at_answer = save(measure(vlm.logits(), answers)[0])
    if receiver.head is None:
        return at_answer

    columns = columns_of(vlm, receiver.head.number)
    with torch.no_grad(), vlm.model.trace(**inputs_of(vlm, example, BASE)):
        add_noise(vlm, example, BASE)
        layer = vlm.layers[receiver.head.layer]
        for port, state in zip(received, changed, strict=True):
            port.write(layer, state)
        z = vlm.port(paths.ends.receiving).read(layer)
        state = base[receiver.head.layer, paths.ends.receiving].clone()
        state[..., columns] = z[..., columns]  # other heads may share its keys and values: theirs are as they were
        vlm.port(paths.ends.receiving).write(layer, state)
        measured = save(measure(vlm.logits(), answers)[0])
    return measured


def verify_paths(vlm: Vlm, example: Example, paths: Paths, measured: Float[Tensor, "sender receiver measurement"], count: int = 4) -> None:
    """Measure some of the paths again the plain way (the same ones for the same number of paths).

    Raises
    ------
    VerificationError
        When a measurement differs by more than rounding.
    """
    every = list(product(range(len(paths.senders)), range(len(paths.receivers))))
    for index in chosen(len(every), count):
        row, column = every[index]
        one = replace(paths, senders=(paths.senders[row],), receivers=(paths.receivers[column],))
        hold(vlm, f"the path {paths.senders[row]} -> {paths.receivers[column]}", measured[row, column], run_plain(vlm, example, one))
