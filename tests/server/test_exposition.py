"""The text format, read back by an independent reader."""

from hypothesis import given
from hypothesis import strategies as st

from flexquant.server.exposition import Counter, Gauge, Histogram, written
from support.prometheus import scraped

AMOUNTS = st.integers(0, 10**12) | st.floats(0, 1e12)


@given(st.lists(st.tuples(st.text(), st.text(), AMOUNTS)))
def test_counter_adds_up_by_labels_whatever_they_hold(added: list[tuple[str, str, float]]) -> None:
    counter = Counter("things_total", 'Back\\slash, "quotes" and\na line.', ("kind", "place"))
    expected: dict[tuple[str, str], float] = {}
    for kind, place, amount in added:
        counter.add(amount, kind, place)
        expected[kind, place] = expected.get((kind, place), 0) + amount
    found = scraped(written(counter, counter.samples()))
    assert found.families["things_total"].help == r'Back\\slash, "quotes" and\na line.'
    assert len(found.every()) == len(expected)
    for (kind, place), amount in expected.items():
        assert found.value("things_total", kind=kind, place=place) == amount


@given(st.lists(st.floats(-10, 10)), st.lists(st.floats(-10, 10), min_size=1, unique=True))
def test_histogram_counts_what_is_at_most_each_bound(values: list[float], bounds: list[float]) -> None:
    histogram = Histogram("seconds", "Time.", sorted(bounds))
    for value in values:
        histogram.observe(value)
    found = scraped(written(histogram, histogram.samples()))
    for bound in bounds:
        assert found.value("seconds_bucket", le=repr(bound)) == sum(value <= bound for value in values)
    assert found.value("seconds_count") == len(values)


def test_what_was_never_counted_is_0_and_not_absent() -> None:
    plain, labelled = Counter("a_total", "A."), Counter("b_total", "B.", ("way",), [("up",), ("down",)])
    assert scraped(written(plain, plain.samples())).value("a_total") == 0
    found = scraped(written(labelled, labelled.samples()))
    assert [found.value("b_total", way=way) for way in ("up", "down")] == [0, 0]


def test_gauge_without_a_value_has_no_sample() -> None:
    gauge: Gauge[float | None] = Gauge("level", "Level.", lambda level: [] if level is None else [((), level)])
    assert scraped(written(gauge, gauge.samples(None))).every() == {}
    assert scraped(written(gauge, gauge.samples(2.5))).value("level") == 2.5
