"""Everything that a comparison tells, and its form in compare.json."""

from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Final

from flexquant.engine.manifest import Text
from flexquant.ensemble_builder.compare.against_ladder import Beside, finding, worst
from flexquant.ensemble_builder.compare.equal_footprint import beside_each_other
from flexquant.ensemble_builder.compare.exhaustive import Exhaustive
from flexquant.ensemble_builder.compare.ladder import Rung
from flexquant.ensemble_builder.compare.pruned import PrunedAt
from flexquant.ensemble_builder.compare.search_tree import Tree
from flexquant.ensemble_builder.evaluation import rounded
from flexquant.ensemble_builder.report.contents import Report
from flexquant.ensemble_builder.report.findings import Method, percent, verdicts
from flexquant.ensemble_builder.report.orders import EXHAUSTIVE, GREEDY

NO_DIFFERENCE: Final = 0.001
"""Relative difference of areas below which nobody wins, however sure it is."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Completion choice at one position of an ensemble's own sequence.

    Args:
        position: Of the sequence.
        footprint_bytes: Resident bytes there.
        right: For every question, whether the true continuation was chosen.
    """

    position: int
    footprint_bytes: int
    right: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """One ensemble.

    Args:
        name: "exl2 8.0-2.0": its method and its levels.
        report: Its orders on the unseen text, granularity, storage.
        exhaustive: What exhaustive greedy took; None where it was not run.
        without_exhaustive: Why it was not run; empty where it was.
        beside: Its positions beside the ladder.
        ladder_bytes: The ladder's files between its levels, shared files once; None where there is no such ladder.
        choices: Completion choice along its sequence.
        pruned: What is left of it at several pruning rates, the whole one first; empty if that was not asked for.
        tree: What its search measured; None if the build kept no journal.
    """

    name: str
    report: Report
    exhaustive: Exhaustive | None
    without_exhaustive: str
    beside: tuple[Beside, ...]
    ladder_bytes: int | None
    choices: tuple[Chosen, ...]
    pruned: tuple[PrunedAt, ...]
    tree: Tree | None

    @property
    def own(self) -> Method:
        """The ensemble's own sequence."""
        return self.report.methods[0]

    def method(self, name: str) -> Method | None:
        """Another method by its name; None if it was not measured."""
        return next((method for method in self.report.methods if method.name == name), None)

    def findings(self) -> list[str]:
        """Plain words on who wins."""
        greedy = self.method(GREEDY)
        said = [] if greedy is None else [against_greedy(self.own, greedy)]
        said += verdicts([method for method in self.report.methods if method.name != GREEDY])
        if self.exhaustive is not None:
            spent, most = self.report.search.evaluations, self.exhaustive.evaluations
            said.append(
                f"Exhaustive greedy took {most} evaluations, the search {spent}: {percent(spent / most)} of them."
            )
        if self.without_exhaustive:
            said.append(self.without_exhaustive)
        return [*said, finding(self.beside)]

    def as_json(self) -> dict[str, object]:
        """Return it as JSON values."""
        ratios = {method.name: _ratio_json(self.own, method) for method in self.report.methods[1:] if method.area > 0}
        return {
            "name": self.name,
            **self.report.as_json(),
            "sequence_area_over": ratios,
            "findings": self.findings(),
            "exhaustive": None
            if self.exhaustive is None
            else {"evaluations": self.exhaustive.evaluations, "minutes": round(self.exhaustive.minutes, 2)},
            "beside_ladder": [asdict(beside) | {"ratio": rounded(beside.ratio)} for beside in self.beside],
            "worst_beside_ladder": asdict(worst(self.beside)) | {"ratio": rounded(worst(self.beside).ratio)}
            if self.beside
            else None,
            "ladder_bytes": self.ladder_bytes,
            "next_token_accuracy": [
                {"footprint_bytes": point.footprint_bytes, "accuracy": rounded(point.quality.accuracy)}
                for point in self.own.curves[0].points
            ],
            "completion_choice": [
                {
                    "position": chosen.position,
                    "footprint_bytes": chosen.footprint_bytes,
                    "accuracy": rounded(fmean(chosen.right)),
                }
                for chosen in self.choices
            ],
            "pruned": [_pruned_json(pruned) for pruned in self.pruned],
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The whole comparison.

    Args:
        model: Name of the checkpoint.
        compared: The ensembles.
        rungs: The ladder of whole models, from wide to narrow.
        ladder_bytes: All of its files, shared files once.
        ladder_minutes: What making it took; None if nobody noted it.
        questions: Of the completion choice.
        calibration: What the ladder was calibrated on.
    """

    model: str
    compared: tuple[Compared, ...]
    rungs: tuple[Rung, ...]
    ladder_bytes: int
    ladder_minutes: float | None
    questions: int
    calibration: Text

    def as_json(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {
            "model": self.model,
            "ladder": {
                "rungs": [
                    {
                        "bits": rung.bits,
                        "footprint_bytes": rung.footprint_bytes,
                        "perplexity": rounded(rung.quality.perplexity),
                        "kl": rounded(rung.quality.mean_kl),
                        "next_token_accuracy": rounded(rung.quality.accuracy),
                        "completion_choice": rounded(fmean(rung.choices)),
                    }
                    for rung in self.rungs
                ],
                "calibration": self.calibration.model_dump(),
                "storage_bytes": self.ladder_bytes,
                "minutes": None if self.ladder_minutes is None else round(self.ladder_minutes, 2),
            },
            "completion_choice_questions": self.questions,
            "ensembles": [compared.as_json() for compared in self.compared],
            "between": self.between(),
        }

    def between(self) -> list[str]:
        """Return in plain words which of each two ensembles is better where their footprints overlap."""
        return [
            beside_each_other(one.name, one.own.curves[0], other.name, other.own.curves[0])
            for one, other in combinations(self.compared, 2)
        ]

    def as_table(self) -> str:
        """Return the areas as a table for a person, and the findings."""
        lines = [f"{'ensemble':<18}  {'area under KL':>13}  {'over greedy (95 %)':>24}  {'over exhaustive (95 %)':>24}"]
        for compared in self.compared:
            cells = [ratio_text(compared.own, compared.method(name)) for name in (GREEDY, EXHAUSTIVE)]
            lines.append(f"{compared.name:<18}  {compared.own.area:>13.6f}  {cells[0]:>24}  {cells[1]:>24}".rstrip())
        for compared in self.compared:
            lines += ["", compared.name, *(f"  {sentence}" for sentence in compared.findings())]
        if len(self.compared) > 1:
            lines += ["", "ensembles beside each other", *(f"  {sentence}" for sentence in self.between())]
        return "\n".join(lines)


def against_greedy(own: Method, greedy: Method) -> str:
    """Return in plain words whether the search beats greedy by sensitivity."""
    if own.area <= 0 or greedy.area <= 0:
        return "The search and greedy are not compared, because an area is not above 0."
    ratio, (low, high) = own.area_over(greedy)
    figures = f"its area under KL is {ratio:.4f}x greedy's, 95 % interval {low:.4f}x to {high:.4f}x"
    if [curve.route.states for curve in own.curves] == [curve.route.states for curve in greedy.curves]:
        return "The search found greedy's own order, so it neither wins nor loses."
    if len(own.window_areas) < 2:
        return f"One window of text cannot tell whether the search beats greedy by sensitivity ({ratio:.4f}x)."
    if max(abs(low - 1), abs(high - 1)) < NO_DIFFERENCE:
        return f"The search wins nothing over greedy by sensitivity, and loses nothing: {figures}."
    if high < 1:
        return f"The search beats greedy by sensitivity: {figures}."
    if low > 1:
        return f"The search loses to greedy by sensitivity: {figures}."
    return f"Between the search and greedy by sensitivity this text does not decide: {figures}."


def ratio_text(own: Method, other: Method | None) -> str:
    """Return an area over another's with its interval; empty where there is none."""
    if other is None or other.area <= 0:
        return ""
    ratio, (low, high) = own.area_over(other)
    return f"{ratio:.4f}x ({low:.4f} to {high:.4f})"


def _ratio_json(own: Method, other: Method) -> dict[str, object]:
    ratio, interval = own.area_over(other)
    return {"ratio": rounded(ratio), "interval": [rounded(end) for end in interval]}


def _pruned_json(pruned: PrunedAt) -> dict[str, object]:
    return {
        "rate": pruned.rate,
        "dropped_variants": pruned.dropped_variants,
        "variants": pruned.variants,
        "disk_bytes": pruned.disk_bytes,
        "footprint_range_bytes": list(pruned.footprints),
        "positions": pruned.positions,
        "allowed": [
            {
                "share_of_range": allowed.share,
                "allowed_bytes": allowed.allowed_bytes,
                "position": allowed.position,
                "footprint_bytes": allowed.footprint_bytes,
                "perplexity": rounded(allowed.quality.perplexity),
                "kl": rounded(allowed.quality.mean_kl),
                "predicted_kl": rounded(allowed.predicted_kl),
            }
            for allowed in pruned.allowed
        ],
    }
