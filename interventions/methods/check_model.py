"""`python -m interventions.models` lists the architectures that are described; `... check <model>` tries a checkpoint of yours."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import tyro

from corruptions.base import CORRUPTIONS
from data_prep.scenes.table import make_shapes
from data_prep.tables.command import reporting
from interventions.engine.capture import capture, example
from interventions.engine.oracle.patching import verify_patches
from interventions.engine.pairs import prepare_pair
from interventions.engine.plan import patches
from interventions.engine.sweep import sweep
from interventions.models.architecture import ARCHITECTURES, Architecture
from interventions.models.checks import check_sites
from interventions.models.loading import load
from interventions.models.names import CHECKPOINTS, HUB
from interventions.models.vlm import Scored, Vlm
from interventions.results.roles import Cell

CAUSAL_CHECKS = (
    "projecting z gives the attention's output; states have a place for each token; exchanging the last layer's exchanges the answers"
)


@dataclass
class List:
    """List the architectures that are described, with their sites, and the models that have names."""


@dataclass
class Check:
    """Load a checkpoint, run the causal checks, hold some patched runs against the plain path, and say what is guaranteed.

    Example: python -m interventions.models check llava-shapes
    """

    model: Annotated[str, tyro.conf.Positional]
    """A shipped model, a folder with a checkpoint, or a Hub id."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<number>."""
    dtype: str = "float32"
    """float32, bfloat16, float16 or nf4."""
    revision: str | None = None
    """Revision of a checkpoint on the Hub."""


def listing() -> str:
    """The table of architectures."""
    lines = ["names: " + ", ".join([*sorted(path.parent.name for path in CHECKPOINTS.glob("*/config.json")), *HUB]), ""]
    for architecture in ARCHITECTURES:
        lines += [
            f"{architecture.name} (model type {', '.join(architecture.model_types)})",
            *(f"    {line}" for line in _sites(architecture)),
        ]
    for whole in ARCHITECTURES:
        for name, part in whole.parts.items():
            lines += [f"{whole.name} --part {name}", *(f"    {line}" for line in _ports(part))]
    return "\n".join([*lines, "", "any other type with a text and a vision part is tried as the common layout, that of llava, and checked"])


def _sites(architecture: Architecture) -> list[str]:
    width = max(map(len, architecture.components)) + 2
    packed = {"start": "packed", "image": "packed after the image, before it batched", "nowhere": "batched"}[architecture.causal_from]
    heads = f"{'heads':<{width}}of {architecture.head_component}, at {architecture.main_token!r}; patched runs are {packed}"
    return [*_ports(architecture), heads, f"{'prompt':<{width}}{architecture.template!r}"]


def _ports(architecture: Architecture) -> list[str]:
    layer = f"{architecture.text_model}.{architecture.layers}[*]"
    ports = {name: architecture.port(name) for name in architecture.components}
    width = max(map(len, ports)) + 2
    return [f"{name:<{width}}{'.'.join(filter(None, (layer, port.module)))} ({port.side})" for name, port in ports.items()]


def check(options: Check) -> str:
    """The report on a checkpoint; raises what `load` and `verify_patches` raise."""
    vlm = load(options.model, options.device, options.dtype, options.revision, check=False)
    check_sites(vlm)
    compared = _hold_against_plain_path(vlm)
    return "\n".join(
        [
            f"{vlm.name}: {vlm.architecture.name}, {vlm.n_layers} layers x {vlm.n_heads} heads of {vlm.head_dim}, {vlm.number_format}",
            f"holds: {CAUSAL_CHECKS}",
            f"holds: {compared} patched runs of every component agree with the plain path, one whole run each",
            "not guaranteed: that the prompt is the one the model was trained with, nor that it answers well; see its answers with",
            f"  python -m interventions.accuracy --models {options.model}",
            f"the prompt: {vlm.template('Is it red or blue?')[0]!r}",
        ]
    )


def _hold_against_plain_path(vlm: Vlm) -> int:
    """Verify some cells of each component on one rendered pair; returns how many."""
    table = make_shapes(1, seed=0, progress=False)
    pair = CORRUPTIONS["sip"].make(table).corrupt(table[0], vlm.prompt)
    ours = example(vlm, prepare_pair(vlm, pair, Scored(0, 1)))
    captured = capture(vlm, [ours], vlm.architecture.components)
    length = captured.lengths[0]
    cells = [Cell("last", "", (length - 1,)), Cell("all", "", tuple(range(length)))]
    compared = 0
    for component in vlm.architecture.components:
        heads = vlm.n_heads if component in vlm.architecture.attention else None
        every = [patch for patch in patches(component, vlm.n_layers, heads, cells) if component in vlm.components_of(patch.layers[0])]
        (measured,) = sweep(vlm, captured, [every])
        verify_patches(vlm, ours, every, measured)
        compared += min(4, len(every))
    return compared


def main() -> None:
    commands: dict[str, Callable[..., List | Check]] = {"list": List, "check": Check}
    options = tyro.extras.subcommand_cli_from_dict(commands, prog="python -m interventions.models", args=sys.argv[1:] or ["list"])
    with reporting("interventions.models", ValueError):
        print(check(options) if isinstance(options, Check) else listing())


if __name__ == "__main__":
    main()
