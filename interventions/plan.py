"""What to patch where: the cells of one sample's effects, and their order."""

from collections.abc import Sequence
from dataclasses import dataclass

from interventions.roles import Cell


@dataclass(frozen=True)
class Patch:
    """One patched run: the clean state of a component put into the corrupt run at one layer, one head or all, some positions."""

    component: str
    layer: int
    head: int | None
    positions: tuple[int, ...]


def patches(component: str, layers: int, heads: int | None, cells: Sequence[Cell]) -> list[Patch]:
    """Every (layer[, head], cell) of a component, the last axis fastest: reshape results to [layer, (head,) token].

    Parameters
    ----------
    heads : number of heads for head patching; None patches the whole module.
    """
    over_heads: Sequence[int | None] = [None] if heads is None else range(heads)
    return [Patch(component, layer, head, cell.positions) for layer in range(layers) for head in over_heads for cell in cells]
