"""What to patch where: the cells of one sample's effects, and their order."""

from collections.abc import Sequence
from dataclasses import dataclass

from interventions.models.vlm import Vlm
from interventions.results.roles import Cell

Heads = tuple[tuple[int, int], ...]  # (layer, head) of each


@dataclass(frozen=True)
class Patch:
    """One patched run: the source state of a component put into the base run at some layers, one head or all, some positions."""

    component: str
    layers: tuple[int, ...]
    head: int | None
    positions: tuple[int, ...]


def patches(component: str, layers: int, heads: int | None, cells: Sequence[Cell], window: int = 1) -> list[Patch]:
    """Every (layer[, head], cell) of a component, the last axis fastest: reshape results to [layer, (head,) token].

    Parameters
    ----------
    heads : number of heads for head patching; None patches the whole module.
    window : how many layers around each are patched together (see `window_of`).
    """
    over_heads: Sequence[int | None] = [None] if heads is None else range(heads)
    return [
        Patch(component, window_of(layer, window, layers), head, cell.positions)
        for layer in range(layers)
        for head in over_heads
        for cell in cells
    ]


def window_of(layer: int, window: int, layers: int) -> tuple[int, ...]:
    """The layers of a window: from `window // 2` below its centre to `(window - 1) // 2` above it, cut off at the ends (as in ROME)."""
    return tuple(range(max(0, layer - window // 2), min(layers, layer + (window + 1) // 2)))


def all_heads(vlm: Vlm, component: str) -> Heads:
    """The heads of a component, in the layers that have it."""
    layers = [number for number in range(vlm.n_layers) if component in vlm.components_of(number)]
    return tuple((layer, head) for layer in layers for head in range(vlm.n_heads))


def layers_without(vlm: Vlm, component: str) -> list[int]:
    """The layers that lack a component: in some models layers are of two kinds."""
    return [layer for layer in range(vlm.n_layers) if component not in vlm.components_of(layer)]
