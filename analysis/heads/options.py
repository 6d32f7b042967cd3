"""Options of the commands that name heads; loads no library but numpy and tyro."""

from dataclasses import dataclass, fields
from typing import Annotated

from tyro.conf import arg

from analysis.store.errors import ResultsError, check_finite, check_not_negative, check_positive, check_shares
from corruptions.base import default
from interventions.results.metrics import METRICS, help_text

TESTS = ("flips", "t")


@dataclass(frozen=True)
class HeadEffectsOptions:
    """Which effects of which heads are judged; the defaults are NOTICE's.

    >>> HeadEffectsOptions(metric="restoration_probability", image_corruption="inpainting").corruptions()
    {'inpainting': 'image', 'str': 'text'}
    """

    metric: Annotated[str, arg(help=f"Effect to judge by. {help_text()}")] = "logit_difference"
    token: str | None = None
    """Token role at which heads are judged; without it, the main token of each file ("correct" for BLIP, "last" for LLaVA)."""
    component: str | None = None
    """Component whose heads are judged; without it, cross_attention where the model has it, else self_attention."""
    image_corruption: str = default("image")
    """The image corruption to judge by."""
    text_corruption: str = default("text")
    """The text corruption to judge by."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ResultsError(f"there is no metric {self.metric!r}; choose one of {', '.join(METRICS)}")
        if self.image_corruption == self.text_corruption:
            raise ResultsError(f"the image and the text corruption are both {self.image_corruption!r}; name two different ones")

    def corruptions(self) -> dict[str, str]:
        """The modality of each corruption judged by, image first."""
        return {self.image_corruption: "image", self.text_corruption: "text"}

    def attributes(self, options_class: type) -> dict[str, str | int | float]:
        """The options of a class that have a value, as attributes of a file."""
        values = {name: getattr(self, name) for name in (field.name for field in fields(options_class))}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class NoticeRule(HeadEffectsOptions):
    """What makes a head important by NOTICE's rule; the defaults are NOTICE's."""

    deviations: float = 2.0
    """Standard deviations above the mean of all heads, from which on a head is important."""
    at_least: int = 0
    """Tasks in which a head must be important to be universal; 0 for every task that ran."""
    permutations: int = 1000
    """Shuffles behind the p-values; 0 leaves the p-values out."""
    seed: int = 0
    """Seed of the shuffles."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(self, "deviations")
        check_not_negative(self, "permutations", "seed")
        if self.at_least < 0:
            raise ResultsError(f"a head cannot be asked to be important in {self.at_least} tasks; 0 is every task, 1 any, 2 at least two")


@dataclass(frozen=True)
class RobustRule(NoticeRule):
    """What makes a head important beyond chance; thresholds of size are those of NOTICE's rule, on signed means."""

    at_least: int = 0
    """Tasks in which a head must be important to be universal; 0 for every task that ran. Where it is 1, or one task ran, the rate of false
    discoveries holds for noise that is symmetric only: ask for 2 or more."""
    alpha: float = 0.05
    """Share of false discoveries that is allowed."""
    test: str = "flips"
    """flips (of the signs of samples), or t (Student's: faster, and nearly the same for many samples)."""
    flips: int = 0
    """Sign flips behind each p; 0 for enough that one head alone can be named, at least 2 x heads x corruptions / alpha."""
    resamples: int = 2000
    """Bootstrap resamples behind intervals and frequencies; 0 leaves these out."""
    confidence: float = 0.95
    """Coverage of the intervals."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test not in TESTS:
            raise ResultsError(f"there is no test {self.test!r}; choose one of {', '.join(TESTS)}")
        check_shares(self, "alpha", "confidence")
        check_not_negative(self, "flips", "resamples")


@dataclass(frozen=True)
class Subsampling(HeadEffectsOptions):
    """What is judged, by which thresholds, and how often."""

    deviations: float = 2.0
    """Standard deviations above the mean of all heads, from which on a head stands out."""
    alpha: float = 0.05
    """Share of false discoveries that the robust rule allows."""
    repeats: int = 100
    """Subsamples of each size."""
    seed: int = 0
    """Seed of the subsamples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "alpha")
        check_finite(self, "deviations")
        check_not_negative(self, "seed")
        check_positive(self, "repeats")
