"""The `shapes` data set: rendered scenes and two-choice questions, in pairs that differ in one attribute of one object.

In: how many samples and a seed. Out: a sample table with one category for each of colour, shape, texture and position.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataclasses import dataclass
from typing import Literal

from data_prep.tables.command import reporting
from data_prep.tables.readers import reader


@reader(
    title="rendered scenes",
    categories="colour, shape, texture, position",
    corrupt_image="the scene with one attribute changed",
    masks="exact",
)
@dataclass
class Shapes:
    """Render the `shapes` data set.

    Example: python -m data_prep.shapes --out data/shapes --per-category 130 --seed 0
    """

    out: Path = Path("data/shapes")
    """Folder that receives the sample table; an older table there is replaced."""
    per_category: int = 130
    """Samples for each of colour, shape, texture and position."""
    seed: int = 0
    """Seed of the scenes and questions. A larger table of the same seed starts with the smaller one's samples."""
    split: Literal["test", "validation", "train"] = "test"
    """Kind of scenes: `test` has attribute combinations and backgrounds that no training scene has."""


def main(options: Shapes) -> None:
    with reporting("data_prep.shapes", ValueError):
        from data_prep.scenes.table import make_shapes  # loads the data set library: not before --help
        from data_prep.tables import schema as samples

        dataset = make_shapes(options.per_category, options.seed, options.split)
        record = samples.save(dataset, options.out, {"name": "shapes", "seed": options.seed, "split": options.split})
    print(f"{record['samples']} samples ({', '.join(f'{v} {k}' for k, v in record['counts'].items())}) in {options.out}")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Shapes))
