"""Object masks guessed by a zero-shot model, for a sample table that lacks them.

In: a sample table, and a CLIPSeg (masks) or OWL-ViT (boxes) checkpoint of Hugging Face, which is given each sample's noun. Out: the table
with masks, named "<name>-pseudo-masks". Its `data.json` has the key `masks` ("pseudo: <model>"), how they were made, and the samples that
got none, with the reason.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.masks.options import PseudoMasks
from data_prep.tables.command import reporting
from data_prep.tables.sample import SampleError

SHOWN = 10  # samples without a mask that are printed; `data.json` has all


def main(options: PseudoMasks) -> None:
    with reporting("data_prep.pseudo_masks", SampleError):
        import datasets  # takes seconds to load, as do the models

        from data_prep.masks.guessing import make_pseudo_masks

        datasets.disable_progress_bars()
        record = make_pseudo_masks(options)
    made = record["pseudo_masks"]
    for entry in made["without"][:SHOWN]:
        print(f"no mask for {entry['sample']}: {entry['reason']}", file=sys.stderr)
    if len(made["without"]) > SHOWN:
        print(f"... and {len(made['without']) - SHOWN} more, see {options.out / 'data.json'}", file=sys.stderr)
    print(f"{made['made']} masks by {made['model']}, {made['kept']} kept, {len(made['without'])} samples without, in {options.out}")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(PseudoMasks))
