"""A strict reader of Prometheus' text format 0.0.4, independent of the code that writes it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_HELP = re.compile(rf"# HELP ({_NAME}) (.*)")
_TYPE = re.compile(rf"# TYPE ({_NAME}) (counter|gauge|histogram)")
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


@dataclass
class Family:
    """One metric: its samples by name and labels."""

    help: str
    kind: str = ""
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)


@dataclass
class Scraped:
    """What a scrape said."""

    families: dict[str, Family]

    def value(self, sample: str, /, **labels: str) -> float | None:
        """Of the sample with exactly these labels; None where there is none."""
        return self.every().get((sample, frozenset(labels.items())))

    def every(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """All samples."""
        return {key: value for family in self.families.values() for key, value in family.samples.items()}

    def rising(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """All samples that may never fall."""
        families = (family for family in self.families.values() if family.kind != "gauge")
        return {key: value for family in families for key, value in family.samples.items()}


def scraped(text: str) -> Scraped:
    """Read a whole answer; AssertionError where it breaks the format."""
    assert text.endswith("\n")
    families: dict[str, Family] = {}
    current = ""
    for line in text.removesuffix("\n").split("\n"):
        if match := _HELP.fullmatch(line):
            current = match[1]
            assert current not in families, f"{current} comes twice"
            families[current] = Family(match[2])
        elif match := _TYPE.fullmatch(line):
            assert match[1] == current
            assert not families[current].samples
            families[current].kind = match[2]
        else:
            match = _SAMPLE.fullmatch(line)
            assert match, line
            family = families[current]
            suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
            assert match[1] in {current + suffix for suffix in suffixes}, line
            key = match[1], frozenset(_labels(match[2] or ""))
            assert key not in family.samples, f"{line} comes twice"
            family.samples[key] = float(match[3])
    for name, family in families.items():
        assert family.kind, f"{name} has no type"
        if family.kind == "histogram":
            _check_histogram(name, family.samples)
    return Scraped(families)


def _labels(text: str) -> Iterator[tuple[str, str]]:
    end = 0
    while end < len(text):
        match = _LABEL.match(text, end)
        assert match, text
        yield match[1], re.sub(r"\\.", lambda escape: _ESCAPES[escape[0]], match[2])
        end = match.end()


def _check_histogram(name: str, samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]) -> None:
    buckets = [
        (float(dict(labels)["le"]), value) for (sample, labels), value in samples.items() if sample == f"{name}_bucket"
    ]
    assert buckets == sorted(buckets)
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    assert buckets[-1] == (float("inf"), samples[f"{name}_count", frozenset()])
    assert (f"{name}_sum", frozenset()) in samples
