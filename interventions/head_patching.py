"""Head patching: each head's context vector z, before the output projection, from the clean run into the corrupt run."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from dataclasses import dataclass

import tyro

from interventions.study.command import reporting_errors
from interventions.study.patching import Target, patch_study
from interventions.study.study import Options, Study, prepare


@dataclass
class HeadPatching(Options):
    """Patch every attention head of a model at chosen tokens, over a data set, and write the effects.

    Example: python -m interventions.head_patching --model llava-shapes --corruption str --samples 20 --out results
    """

    component: str | None = None
    """Attention component: cross_attention or self_attention. Default: the paper's (BLIP cross, causal decoders self)."""
    tokens: tuple[str, ...] = ()
    """Token roles, e.g. correct, incorrect, or, noun, last; `all` for every position at once; `every` alone for each token by itself.
    Default: the paper's (BLIP correct; causal decoders last and correct)."""


def head_target(study: Study, component: str | None = None, tokens: tuple[str, ...] = ()) -> Target:
    """All heads of a component; by default the component and the tokens of the paper."""
    architecture = study.vlm.architecture
    return Target(
        component or architecture.head_component,
        heads=True,
        tokens=tokens or (("last", "correct") if architecture.causal else (architecture.main_token,)),
    )


def patch_heads(study: Study, corruption: str | None = None, component: str | None = None, tokens: tuple[str, ...] = ()) -> Path:
    """Patch all heads of a component (see `head_target`). Returns the file of effects."""
    return patch_study(study, [head_target(study, component, tokens)], corruption)[0]


def main() -> None:
    options = tyro.cli(HeadPatching)
    with reporting_errors():
        print(patch_heads(prepare(options), None, options.component, options.tokens))


if __name__ == "__main__":
    main()
