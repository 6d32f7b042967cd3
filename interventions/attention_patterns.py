"""Attention patterns: what share of its attention each head gives to each image patch, from the query token, in the clean run."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from typing import TYPE_CHECKING

from interventions.methods.options import AttentionPatterns
from interventions.methods.script import run_script

if TYPE_CHECKING:
    from interventions.study.study import Study

DEFAULT = AttentionPatterns()


def map_attention(study: "Study", options: AttentionPatterns = DEFAULT) -> Path:
    """Write `<out>/<model>/<dataset>/attention.nc`, for the samples that the study's corruption uses.

    Variables: attention (sample, layer, head, patch), probabilities that sum to at most 1 over the patches; object_share (sample,
    patch), the part of each patch that the object's mask covers, NaN without a mask; image (sample, y, x, rgb), what the model saw.
    Coordinates: patch_row, patch_col (patch), question (sample), and those of all files (see `interventions.results.assembling`).
    """
    from interventions.methods.attention_patterns import write

    return write(study, options)


def main() -> None:
    run_script(AttentionPatterns, map_attention)


if __name__ == "__main__":
    main()
