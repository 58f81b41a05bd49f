"""What the watched daemon writes down."""

import json
import threading
import time
from pathlib import Path

from bench.releases import Release, releases

RELEASE = Release(time=10.5, tokens=70, safe_points=[10.0, 10.1, 10.3, 10.4])


def test_safe_points_after_the_closing_are_counted() -> None:
    assert RELEASE.passed(since=10.2) == 2
    assert RELEASE.passed(since=10.4) == 0


def test_the_longest_way_is_between_safe_points_before_the_closing() -> None:
    assert round(RELEASE.longest_way(until=10.35), 6) == 0.2
    assert round(RELEASE.longest_way(until=10.2), 6) == 0.1
    assert RELEASE.longest_way(until=9.0) == 0.0


def test_lines_are_read_as_they_are_completed(tmp_path: Path) -> None:
    path = tmp_path / "releases"
    line = json.dumps({name: getattr(RELEASE, name) for name in Release.__slots__})

    def write() -> None:
        with path.open("a") as file:
            for part in (line[:9], line[9:] + "\n" + line, "\n"):
                file.write(part)
                file.flush()
                time.sleep(0.03)

    path.touch()
    writer = threading.Thread(target=write)
    with releases(path) as found:
        writer.start()
        assert [found.next(), found.next()] == [RELEASE, RELEASE]
    writer.join()
