"""Head patching: each head's context vector z, before the output projection, from the clean run into the corrupt run."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from typing import TYPE_CHECKING

from interventions.methods.options import HeadPatching
from interventions.methods.script import run_script

if TYPE_CHECKING:
    from interventions.study.study import Study

DEFAULT = HeadPatching()


def patch_heads(study: "Study", options: HeadPatching = DEFAULT) -> Path:
    """Write `<out>/<model>/<dataset>/<corruption>[-noising]/<component>-heads.nc`: the effects of patching each head of a component.

    See `interventions.methods.patching.patch_study` for what is raised.
    """
    from interventions.methods.patching import head_target, patch_study

    return patch_study(study, [head_target(study, options)])[0]


def main() -> None:
    run_script(HeadPatching, patch_heads)


if __name__ == "__main__":
    main()
