"""Module patching: a whole component's state at each token and layer, from the clean run into the corrupt run."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from dataclasses import dataclass

import tyro

from interventions.results.roles import EVERY
from interventions.study.command import reporting_errors
from interventions.study.patching import Target, patch_study
from interventions.study.study import Options, Study, prepare


@dataclass
class ModulePatching(Options):
    """Patch whole modules of a model at every token and layer, over a data set, and write the effects.

    Example: python -m interventions.module_patching --model blip-shapes --corruption sip --samples 10 --components mlp block
    """

    components: tuple[str, ...] = ()
    """Of mlp, self_attention, cross_attention (z of all heads) and block (the residual stream after a layer). Default: all there are."""
    tokens: tuple[str, ...] = (EVERY,)
    """`every` token by itself (a causal decoder's image tokens together), or roles, or `all`."""
    window: int = 1
    """Layers that are patched together around each (Palit et al. 3; Basu et al. 3 and 6)."""


def module_targets(study: Study, components: tuple[str, ...] = (), tokens: tuple[str, ...] = (EVERY,), window: int = 1) -> list[Target]:
    """Some components as whole modules, by default all the architecture has."""
    return [Target(component, heads=False, tokens=tokens, window=window) for component in components or study.vlm.architecture.components]


def patch_modules(
    study: Study, corruption: str | None = None, components: tuple[str, ...] = (), tokens: tuple[str, ...] = (EVERY,), window: int = 1
) -> list[Path]:
    """Patch some components (see `module_targets`). Returns a file of effects for each."""
    return patch_study(study, module_targets(study, components, tokens, window), corruption)


def main() -> None:
    options = tyro.cli(ModulePatching)
    with reporting_errors():
        print(*patch_modules(prepare(options), None, options.components, options.tokens, options.window), sep="\n")


if __name__ == "__main__":
    main()
