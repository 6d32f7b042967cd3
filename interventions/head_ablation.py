"""Head ablation: sets of heads are knocked out of the clean run, or kept alone, as the sets grow in order of importance.

The z of a head is replaced at every token of the prompt. Ranked sets stand beside random sets of the same size with as many heads in
each layer: only where they differ do these heads matter more than others.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from typing import TYPE_CHECKING

from interventions.methods.options import HeadAblation
from interventions.methods.script import run_script

if TYPE_CHECKING:
    from interventions.study.study import Study

DEFAULT = HeadAblation()


def ablate_heads(study: "Study", options: HeadAblation = DEFAULT) -> Path:
    """Write `<out>/<model>/<dataset>/<corruption>/<component>-ablation.nc`.

    Variables, of the dims sample, replacement, operation (knock_out: the set is replaced; keep_only: all other heads are), set ("ranked",
    "random 1", ...) and heads (their number): logit_correct, logit_incorrect, log_normalizer, kl_from_clean (with the option
    `divergence`), and top_token, the token with the largest logit; NaN and -1 where nothing was run: `resample` of a sample whose length
    no other has. Baselines clean_* and corrupt_*; on sample, correct_token and incorrect_token, by which the answers are scored.
    ranked_layer (rank) and ranked_head (set, rank): a set of n heads is the first n. `results.faithfulness` has the metrics, and
    `ds.effects` gives differences to the clean run. Where the corruption is noise, `corrupt` is its first draw.

    Raises
    ------
    ValueError
        Unknown component; a ranking or sizes that cannot be used; the noising direction, which has no meaning here.
    """
    from interventions.methods.head_ablation import write

    return write(study, options)


def main() -> None:
    def summary(path: Path, _: HeadAblation) -> str:
        from interventions.methods import head_ablation

        return head_ablation.summary(path)

    run_script(HeadAblation, ablate_heads, summary)


if __name__ == "__main__":
    main()
