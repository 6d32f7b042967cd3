"""What each head and MLP adds directly to the logit difference of a causal decoder, and what the residual stream says after each layer.

Of the clean run, at the token from which the answer is read: a head's W_O z, an MLP's output and the embedding go through the final norm,
its scale held fixed, onto the difference of the two answers' unembeddings. These direct effects sum to LD. What a head does through later
layers is not in them: that is what patching measures.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from typing import TYPE_CHECKING

from interventions.methods.options import DirectEffect
from interventions.methods.script import run_script

if TYPE_CHECKING:
    from interventions.study.study import Study

DEFAULT = DirectEffect()


def direct_effects(study: "Study", _: DirectEffect = DEFAULT) -> Path:
    """Write `<out>/<model>/<dataset>/direct_effect.nc`, for the samples that the study's corruption uses.

    Variables: head_effect (sample, layer, head), mlp_effect (sample, layer), embedding_effect (sample) and bias_effect (sample; biases of
    projections, norm and unembedding), in logits, which sum to the clean LD; the logit lens after each layer: logit_correct,
    logit_incorrect, log_normalizer and, with the option `divergence`, kl_from_clean (sample, layer); of the clean run clean_* (sample).

    Raises
    ------
    ValueError
        A model that is no causal decoder, or (`NotAdditiveError`) whose parts do not add up.
    """
    from interventions.methods.direct_effect import write

    return write(study)


def main() -> None:
    def summary(path: Path, _: DirectEffect) -> str:
        from interventions.methods import direct_effect

        return direct_effect.summary(path)

    run_script(DirectEffect, direct_effects, summary)


if __name__ == "__main__":
    main()
