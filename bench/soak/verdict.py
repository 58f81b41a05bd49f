"""From what was seen to the tables: what went on, and the checks. Pure."""

from typing import Final

from bench.many_clients.report import MIB, table_of
from bench.soak.accounts import auto_seconds, most_turns, released, turns
from bench.soak.checks import Check
from bench.soak.log import Seen

_EFFICIENCY: Final = 0.95
_DRIFT: Final = 8 * MIB
_LEAST_ORDERED: Final = 64 * MIB
"""Less than this and the efficiency means nothing."""


def checks(seen: Seen) -> list[Check]:
    """All of them."""
    wrong = seen.load.outcomes["WRONG"]
    return [
        Check("failed requests that were admitted", f"{wrong}", "0", wrong == 0 and seen.load.outcomes.total() > 0),
        _tokens(seen),
        _drift(seen),
        _efficiency(seen),
        _leaks(seen),
        _turns(seen),
        Check(
            "SIGTERM during answers and a swap",
            seen.drained or "answers complete, exit code 0",
            "complete, 0",
            not seen.drained,
        ),
        Check("errors, out of memory, wishes not fulfilled", f"{len(seen.faults)}", "0", not seen.faults),
    ]


def what_went_on(seen: Seen) -> str:
    """Markdown: the load, the pressure and the wishes."""
    refused = sum(count for name, count in seen.load.outcomes.items() if name.startswith("503"))
    ordered = released(seen.looks)
    wishes = ", ".join(f"{name} {count}" for name, count in sorted(seen.wishes.items()))
    kinds = sorted({decision.what for decision in seen.decisions})
    decided = ", ".join(f"{kind} {sum(item.what == kind for item in seen.decisions)}" for kind in kinds)
    rows = [
        ("refused with 503 before they were admitted", f"{refused:,}"),
        ("taken by the hogs", f"{seen.taken / MIB:,.0f} MiB"),
        ("given back by the daemon", f"{ordered.observed / MIB:,.0f} MiB in {ordered.releases} releases"),
        ("decisions", decided or "none"),
        ("wishes", wishes or "none"),
        ("followed the memory by itself", f"{auto_seconds(seen.looks):.0f} s"),
    ]
    return table_of([*seen.load.load(), *rows])


def _tokens(seen: Seen) -> Check:
    return Check(
        "wrong answers at a pinned position",
        f"{len(seen.wrong_tokens)} of {seen.compared} ({seen.not_compared} not judged: the pin had ended)",
        "0",
        not seen.wrong_tokens if seen.compared else None,
    )


def _drift(seen: Seen) -> Check:
    name = "RssAnon beyond the registry, end less start"
    if seen.at_start is None or seen.at_end is None:
        return Check(name, "the soak ended early", f"{_DRIFT // MIB} MiB", held=False)
    start, end = seen.at_start[0], seen.at_end[0]
    drift = end.beyond - start.beyond
    figure = (
        f"{drift / MIB:.1f} MiB ({end.private / MIB:.1f} of which {end.registry / MIB:.1f} on the books, at the end)"
    )
    return Check(name, figure, f"{_DRIFT // MIB} MiB", abs(drift) <= _DRIFT)


def _efficiency(seen: Seen) -> Check:
    found = released(seen.looks)
    return Check(
        "release efficiency: RssAnon over registry, all releases",
        f"{found.efficiency:.3f} of {found.ordered / MIB:,.0f} MiB",
        f"at least {_EFFICIENCY}",
        found.efficiency >= _EFFICIENCY if found.ordered >= _LEAST_ORDERED else None,
    )


def _leaks(seen: Seen) -> Check:
    name = "threads, files and sockets more than after the warm-up"
    if seen.at_start is None or seen.at_end is None:
        return Check(name, "the soak ended early", "0", held=False)
    leaked = seen.at_end[1].leaked_since(seen.at_start[1])
    return Check(name, f"{leaked.total} ({seen.at_end[1]} at the end)", "0", leaked.total == 0)


def _turns(seen: Seen) -> Check:
    found = turns(seen.decisions)
    most = most_turns(seen.seconds)
    return Check(
        "changes of direction by the law alone, in D seconds",
        f"{found.reversals} ({found.regretted} of them down within a minute of up)",
        f"5 + D/600 s = {most:.1f}",
        found.reversals <= most,
    )
