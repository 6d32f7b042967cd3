"""Universal heads: effects of heads -> `universal_heads.nc` and `universal_heads.csv`, by NOTICE's rule.

A head is important in a task when its mean |effect| is at least mean + 2 SD over all heads of the model; universal under a corruption
when important in every task (by option, in at least so many); a vision head under the image corruption only, a text head under the text
corruption only, multimodal under both. `robust_heads` is a rule that also asks for signs beyond chance.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.heads.options import NoticeRule
from analysis.store.written import Written, run_command

if TYPE_CHECKING:
    import xarray as xr

FILE = "universal_heads"


@dataclass(frozen=True)
class UniversalHeads(NoticeRule):
    """Find the universal heads of every model in a results folder, by NOTICE's rule.

    python analysis/universal_heads.py --results results --deviations 2
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""


def find(results: Path, options: NoticeRule | None = None) -> dict[str, "xr.Dataset"]:
    """The universal heads of every model in a results folder: one dataset a model, see `heads.notice.judge`.

    Raises
    ------
    ResultsError
        When the folder has no effects of heads under the rule's corruptions, lacks its token or component, has fewer tasks than a head
        must be important in, or holds damaged files.

    >>> kind = find(Path("results"), UniversalHeads(permutations=0))["blip-small"]["kind"]
    >>> {(int(layer), int(head)): str(kind[layer, head].item()) for layer, head in zip(*(kind != "none").values.nonzero())}
    {(0, 5): 'text', (1, 2): 'vision', (3, 0): 'multimodal'}
    """
    from analysis.heads.head_effects import read_head_effects
    from analysis.heads.notice import judge

    options = options or NoticeRule()
    return {model: judge(effects, options) for model, effects in read_head_effects(results, options).items()}


def write(results: Path, options: NoticeRule | None = None) -> Written[dict[str, "xr.Dataset"]]:
    """`find`, then write `universal_heads.nc` (a group a model) and `universal_heads.csv` (see `heads.notice.table`) into the folder.

    >>> written = write(Path("results"), UniversalHeads(permutations=0))
    >>> print(written.words, *written.paths, sep=", ")
    blip-small: vision: L1.H2; text: L0.H5; multimodal: L3.H0, results/universal_heads.nc, results/universal_heads.csv
    """
    from analysis.heads.notice import summary, table
    from analysis.store.folder import write_tree
    from analysis.store.tables import write_table

    heads, paths = find(results, options), (Path(results) / f"{FILE}.nc", Path(results) / f"{FILE}.csv")
    write_tree(heads, paths[0])
    write_table(table(heads), paths[1])
    return Written(heads, paths, summary(heads))


def main() -> None:
    """Command line."""
    run_command(FILE, UniversalHeads, write)


if __name__ == "__main__":
    main()
