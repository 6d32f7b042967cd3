"""Options of the maps of whole modules; loads no library but numpy and tyro."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from analysis.store.errors import ResultsError, check_positive, check_shares
from interventions.results.metrics import METRICS, help_text


@dataclass(frozen=True)
class MapRule:
    """How maps are made, and how sure their statistics are."""

    metric: Annotated[str, arg(help=f"Effect to map. {help_text()}")] = "logit_difference"
    resamples: int = 1000
    """Bootstrap resamples of the samples."""
    confidence: float = 0.95
    """Of the intervals."""
    seed: int = 0
    """Seed of the resamples and of the sign flips."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ResultsError(f"there is no metric {self.metric!r}; choose one of {', '.join(METRICS)}")
        check_positive(self, "resamples")
        check_shares(self, "confidence")
