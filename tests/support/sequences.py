"""Random transition sequences for property tests: levels, multi-module transitions, sizes far apart."""

from dataclasses import dataclass

from hypothesis import strategies as st

from flexquant.engine.manifest import Move, Quality, Transition, TransitionSequence
from flexquant.engine.residency import VariantSize


@dataclass(frozen=True)
class Plan:
    """A sequence with the sizes of all variants."""

    sequence: TransitionSequence
    sizes: dict[str, list[VariantSize]]

    def assignment(self, position: int) -> dict[str, int]:
        """Variant of every module after the first `position` transitions, by walking them."""
        at = dict.fromkeys(self.sizes, 0)
        for transition in self.sequence.transitions[:position]:
            for move in transition.moves:
                at[move.module] = move.to_variant
        return at

    def resident(self, position: int) -> set[tuple[str, int]]:
        """Modules and variants that are in memory there: a variant, and all that it is added to."""
        found = set()
        for name, variant in self.assignment(position).items():
            last = variant
            while self.sizes[name][last].residual:
                last += 1
            found |= {(name, below) for below in range(variant, last + 1)}
        return found


@st.composite
def plans(draw: st.DrawFn, *, largest: int = 400_000) -> Plan:
    """One to six modules with one to three variants each; transitions move one to three of them, some never move.

    The first variants of some modules are residuals.
    """
    sizes: dict[str, list[VariantSize]] = {}
    for number in range(draw(st.integers(1, 6))):
        spans = sorted(draw(st.lists(st.integers(1, largest // 64), min_size=1, max_size=3)), reverse=True)
        residuals = draw(st.integers(0, len(spans) - 1))
        sizes[f"m{number}"] = [
            VariantSize(payload=span * 64 - span % 64, span=span * 64, residual=variant < residuals)
            for variant, span in enumerate(spans)
        ]
    at = dict.fromkeys(sizes, 0)
    transitions: list[Transition] = []
    while movable := [name for name, variant in at.items() if variant + 1 < len(sizes[name])]:
        if draw(st.integers(0, 9)) == 0:
            break
        moves: list[Move] = []
        for name in draw(st.lists(st.sampled_from(movable), min_size=1, max_size=3, unique=True)):
            to = draw(st.integers(at[name] + 1, len(sizes[name]) - 1))
            moves.append(Move(module=name, from_variant=at[name], to_variant=to))
            at[name] = to
        transitions.append(Transition(moves=moves))
    return Plan(_sequence(transitions), sizes)


def ladder(*, modules: int, pages: int = 5) -> Plan:
    """Two levels, one module per transition; module i has i + `pages` pages above and about half of that below."""
    names = [f"m{number}" for number in range(modules)]
    spans = [(number + pages) * 4096 for number in range(modules)]
    return Plan(
        _sequence([Transition(moves=[Move(module=name, from_variant=0, to_variant=1)]) for name in names]),
        {
            name: [VariantSize(payload=span - 9, span=span), VariantSize(payload=span // 2 - 9, span=span // 2)]
            for name, span in zip(names, spans, strict=True)
        },
    )


def _sequence(transitions: list[Transition]) -> TransitionSequence:
    """Footprints and quality play no part in residency."""
    count = len(transitions) + 1
    return TransitionSequence(
        unit="projection",
        transitions=transitions,
        footprint_bytes=[0] * count,
        quality=[Quality(perplexity=1.0, kl=0.0)] * count,
    )
