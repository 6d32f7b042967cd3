"""Options of the comparison of corruptions; loads no library but numpy and tyro."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from analysis.store.errors import ResultsError, check_positive, check_shares
from interventions.results.metrics import METRICS, help_text


@dataclass(frozen=True)
class Comparing:
    """What is compared, and how."""

    model: str | None = None
    """Compare the corruptions of this model only."""
    dataset: str | None = None
    """Compare the corruptions of this data set only."""
    component: str | None = None
    """Compare this component only: cross_attention, self_attention, mlp or block."""
    metric: Annotated[str, arg(help=f"Effect to compare. {help_text()}")] = "logit_difference"
    token: str | None = None
    """Token role at which heads are compared; without it the main one, or the first that all corruptions have where that is missing."""
    confined: float = 0.5
    """Share of the effect in the last third of the layers from which on it counts as confined to them."""
    resamples: int = 1000
    """Bootstrap resamples of the samples."""
    confidence: float = 0.95
    """Of the intervals."""
    seed: int = 0
    """Seed of the resamples."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ResultsError(f"there is no metric {self.metric!r}; choose one of {', '.join(METRICS)}")
        check_positive(self, "resamples")
        check_shares(self, "confined", "confidence")
