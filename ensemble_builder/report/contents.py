"""Everything that a report tells, and its form in report.json and on a terminal."""

from dataclasses import asdict, dataclass
from typing import Literal

from flexquant.engine.manifest import Manifest, Text
from flexquant.ensemble_builder.evaluation import rounded
from flexquant.ensemble_builder.report.findings import Method, verdicts
from flexquant.ensemble_builder.report.measure import Curve
from flexquant.ensemble_builder.report.sizes import Granularity, Ladder, Storage


@dataclass(frozen=True, slots=True)
class Cost:
    """What finding or measuring took.

    Args:
        evaluations: Assignments that were measured.
        minutes: Time for it; None where nothing recorded it.
    """

    evaluations: int
    minutes: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """How the figures were measured.

    Args:
        text: The report's text as the evaluation protocol saw it.
        windows: Windows of it.
        window_tokens: Tokens of each.
        reference: What KL is measured against.
        reference_perplexity: Its perplexity on the text.
        between: Positions between the ends that were measured of each order.
        seed: Of the random orders.
        sensitivities: Where greedy-by-sensitivity has them from: the build, which measured them on the search text, or
            the report's own text, which favours greedy; None if greedy was not measured.
        cost: Of this report.
    """

    text: Text
    windows: int
    window_tokens: int
    reference: Literal["unquantized", "position 0"]
    reference_perplexity: float
    between: int
    seed: int
    sensitivities: Literal["build", "report text"] | None
    cost: Cost


@dataclass(frozen=True, slots=True)
class Report:
    """The report of one ensemble.

    Args:
        manifest: The ensemble's.
        measured: How.
        methods: The ensemble's own sequence first.
        granularity: Of its sequence, over all positions.
        ladder: Whole models in its place; None where their widths are outside what can be made.
        storage: Of its stores.
        search: What finding the sequence took.
    """

    manifest: Manifest
    measured: Measured
    methods: tuple[Method, ...]
    granularity: Granularity
    ladder: Ladder | None
    storage: Storage
    search: Cost

    @property
    def ladder_granularity(self) -> Granularity | None:
        """Granularity of the ladder."""
        return None if self.ladder is None else Granularity.of(self.ladder.footprints)

    @property
    def exact(self) -> bool:
        """Whether every position of every order was measured, so that areas are exact."""
        return all(len(curve.points) == len(curve.route.states) for method in self.methods for curve in method.curves)

    def as_json(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {
            "ensemble": self.manifest.name,
            "levels": [level.model_dump() for level in self.manifest.levels],
            "measured": asdict(self.measured) | {"text": self.measured.text.model_dump()},
            "every_position_measured": self.exact,
            "methods": [_method_json(method) for method in self.methods],
            "findings": verdicts(self.methods),
            "granularity": asdict(self.granularity),
            "ladder": None
            if self.ladder is None or self.ladder_granularity is None
            else asdict(self.ladder) | {"granularity": asdict(self.ladder_granularity)},
            "storage": asdict(self.storage),
            "search": asdict(self.search) | {"method": self.manifest.search.method},
        }

    def as_table(self) -> str:
        """Return the methods as a table for a person, and the findings."""
        head = f"{'order':<26}  {'steps':>5}  {'area under KL':>13}  {'range over draws':>23}"
        lines = [head]
        for method in self.methods:
            least, most = method.area_range
            spread = f"{least:.6f} to {most:.6f}" if len(method.curves) > 1 else ""
            steps = len(method.curves[0].route.states) - 1
            lines.append(f"{method.label:<26}  {steps:>5}  {method.area:>13.6f}  {spread:>23}".rstrip())
        return "\n".join([*lines, "", *verdicts(self.methods)])


def _method_json(method: Method) -> dict[str, object]:
    return {
        "name": method.name,
        "area_under_kl": rounded(method.area),
        "area_doubt": rounded(method.area_doubt),
        "area_range": [rounded(area) for area in method.area_range],
        "area_interval": [rounded(area) for area in method.area_interval],
        "draws": [_curve_json(curve) for curve in method.curves],
    }


def _curve_json(curve: Curve) -> dict[str, object]:
    return {
        "area_under_kl": rounded(curve.area),
        "granularity": asdict(Granularity.of(curve.route.footprints)),
        "points": [point.as_json() for point in curve.points],
    }
