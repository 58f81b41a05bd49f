"""What top prints where there is no terminal."""

import json

from flexquant.clients.top.lines import Lines
from flexquant.clients.top.view import View
from support import told


def test_a_line_for_each_change_and_none_without() -> None:
    lines, view = Lines(), told.view()
    [first] = lines.plain(view, told.NOW)
    assert first.endswith("position 3 of 10 (auto), 700.0 MiB, KL 0.01000, 5.0 GiB available, pressure none")
    assert lines.plain(view, told.NOW) == []
    same = view.read(told.reading(told.NOW + 1, 200, available_bytes=4 << 30), "my-llama")
    assert lines.plain(same, told.NOW) == []
    decided = same.decided([told.decision()])
    [said] = lines.plain(decided, told.NOW)
    assert said.endswith("shrink, 2 to 6: host: 1 MiB")
    [moved] = lines.plain(decided.read(told.reading(told.NOW + 2, 210, position=6), "my-llama"), told.NOW)
    assert "position 6 of 10" in moved


def test_a_daemon_that_goes_and_comes_back_is_two_lines() -> None:
    lines, view = Lines(), told.view()
    lines.plain(view, told.NOW)
    [gone] = lines.plain(view.lost("no daemon\nanswers"), told.NOW)
    assert gone.endswith("no daemon answers; trying again")
    assert lines.plain(view.lost("still none"), told.NOW) == []
    [back] = lines.plain(view.read(told.reading(told.NOW + 9, 100), "my-llama"), told.NOW)
    assert "position 3 of 10" in back


def test_json_has_a_line_for_each_reading() -> None:
    lines, view = Lines(), told.view()
    [first] = lines.as_json(view, told.NOW)
    found = json.loads(first)
    assert found["elastic"] == json.loads(json.dumps(told.STATE))
    assert found["load"] == {"running": 1, "waiting": 2, "requests": 5, "generated_tokens": 100}
    assert (found["model"], found["problem"], found["time"]) == ("my-llama", None, told.NOW)
    assert lines.as_json(view, told.NOW) == []
    [second] = lines.as_json(view.read(told.reading(told.NOW + 1, 130), "my-llama"), told.NOW)
    assert json.loads(second)["tokens_per_second"] == 30.0
    [gone] = lines.as_json(view.lost("gone"), told.NOW + 5)
    assert json.loads(gone) == {
        "time": told.NOW + 5,
        "url": "http://here:8000",
        "model": "my-llama",
        "problem": "gone",
        "elastic": None,
        "load": None,
        "tokens_per_second": None,
    }


def test_before_the_first_reading_there_is_nothing_but_the_problem() -> None:
    assert Lines().plain(View("http://here"), told.NOW) == []
    assert Lines().plain(View("http://here").lost("none"), told.NOW)[0].endswith("none; trying again")
