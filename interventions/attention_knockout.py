"""Attention knockout (Zhang et al., "Cross-modal information flow in multimodal large language models", section 4): in the clean run, what
some tokens get of others by attention is blocked in a window of layers; how much less probable does the answer become?

Blocked are edges "source:target": the target's positions do not see the source's (a position on both sides does not see itself). In a
model whose text reads the image by cross-attention, a source in the image is blocked there, one in the text in self-attention. In BLIP's
answer decoder (--part decoder) sources are tokens of the encoded question, and the target is the decoder's start token.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from typing import TYPE_CHECKING

from interventions.methods.options import AttentionKnockout
from interventions.methods.script import run_script

if TYPE_CHECKING:
    from interventions.study.study import Study

DEFAULT = AttentionKnockout()


def knock_out_attention(study: "Study", options: AttentionKnockout = DEFAULT) -> Path:
    """Write `<out>/<model>/<dataset>/attention_knockout[-window<n>].nc`, for the samples that the study's corruption uses.

    Variables: logit_correct, logit_incorrect, log_normalizer (sample, edge, layer), of the run in which an edge is blocked in the window
    around a layer, NaN where a sample has nothing to block (the manifest says why); clean_logit_correct, ... (sample), of the clean run;
    queries, keys (sample, edge), how many positions do not see and how many keys are not seen; kl_from_clean with the option
    `divergence`. `ds.effects` gives differences to the clean run, and `ds.effects.relative_change()` the paper's measure.

    Raises
    ------
    ValueError
        Something that is no edge, an edge asked for that no sample has, a window that does not fit.
    StoreError, LeftOut, VerificationError
        As in patching.
    """
    from interventions.methods.attention_knockout import write

    return write(study, options)


def main() -> None:
    def summary(path: Path, _: AttentionKnockout) -> str:
        from interventions.methods import attention_knockout

        return attention_knockout.summary(path)

    run_script(AttentionKnockout, knock_out_attention, summary)


if __name__ == "__main__":
    main()
