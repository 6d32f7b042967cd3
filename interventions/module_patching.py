"""Module patching: a whole component's state at each token and layer, from the clean run into the corrupt run."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from typing import TYPE_CHECKING

from interventions.methods.options import ModulePatching
from interventions.methods.script import run_script

if TYPE_CHECKING:
    from interventions.study.study import Study

DEFAULT = ModulePatching()


def patch_modules(study: "Study", options: ModulePatching = DEFAULT) -> list[Path]:
    """Write `<out>/<model>/<dataset>/<corruption>[-noising]/<component>[-window<n>].nc` for each component: the effects of patching it.

    See `interventions.methods.patching.patch_study` for what is raised.
    """
    from interventions.methods.patching import module_targets, patch_study

    return patch_study(study, module_targets(study, options))


def main() -> None:
    run_script(ModulePatching, patch_modules)


if __name__ == "__main__":
    main()
