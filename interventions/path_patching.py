"""Path patching (Wang et al. 2022, "Interpretability in the wild"; Goldowsky-Dill et al. 2023): what a sender head does to the answer by
what a later head, the receiver, reads of it directly, or by what the answer itself is read from.

`interventions/engine/paths.py` says what is held as it was and what is computed anew.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from typing import TYPE_CHECKING

from interventions.methods.options import PathPatching
from interventions.methods.script import run_script

if TYPE_CHECKING:
    from interventions.study.study import Study

DEFAULT = PathPatching()


def patch_paths(study: "Study", options: PathPatching = DEFAULT) -> Path:
    """Write `<out>/<model>/<dataset>/<corruption>/<component>[-to-<receiver component>]-paths.nc`.

    Variables: logit_correct, logit_incorrect, log_normalizer (sample[, draw], sender, receiver), of the run in which the receiver reads
    what the sender alone has changed; kl_from_clean with the option `divergence`; baselines clean_* and corrupt_*. The last receiver,
    "total", is ordinary patching of the sender: all its paths at once. Coordinates: sender_layer, sender_head, receiver_layer,
    receiver_head (-1 where there is none), receiver_input. `ds.effects` gives the metrics.

    Raises
    ------
    PathError
        A sender or a receiver that is no head of the model, is named twice, or cannot be ranked.
    ValueError
        Unknown component or role; MLPs to be frozen that cannot be read.
    RankingError, FileNotFoundError, StoreError, LeftOut, VerificationError
        As in head ablation and patching.
    """
    from interventions.methods.path_patching import write

    return write(study, options)


def main() -> None:
    def summary(path: Path, _: PathPatching) -> str:
        from interventions.methods import path_patching

        return path_patching.summary(path)

    run_script(PathPatching, patch_paths, summary)


if __name__ == "__main__":
    main()
