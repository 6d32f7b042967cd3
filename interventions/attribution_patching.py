"""Attribution patching: the effects of patching every head, estimated from one gradient, beside the exact effects of the largest ones."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from typing import TYPE_CHECKING

from interventions.methods.options import AttributionPatching
from interventions.methods.script import run_script

if TYPE_CHECKING:
    from interventions.study.study import Study

DEFAULT = AttributionPatching()


def attribute_heads(study: "Study", options: AttributionPatching = DEFAULT) -> Path:
    """Write `<out>/<model>/<dataset>/<corruption>/<component>-attribution.nc`.

    It is a file of effects (see `results.effects`) whose measurements are NaN in cells that were not patched exactly, with the
    variables attribution and, with steps, integrated_attribution (sample[, draw], layer, head, token): estimates of LD_patched -
    LD_corrupt, in logits.

    Raises
    ------
    ValueError
        Unknown component or role; steps or a number of cells or samples that cannot be.
    """
    from interventions.methods.attribution_patching import write

    return write(study, options)


def main() -> None:
    def summary(path: Path, options: AttributionPatching) -> str:
        from interventions.methods import attribution_patching

        return attribution_patching.summary(path, options)

    run_script(AttributionPatching, attribute_heads, summary)


if __name__ == "__main__":
    main()
