"""Names of models on the hub."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.engine.hub_id import HubId

LETTERS = "abzAZ09"
WORDS = st.builds(
    "".join, st.tuples(st.sampled_from(LETTERS), st.text(LETTERS + "_-", max_size=8), st.sampled_from(["", ".0bpw"]))
)


@given(WORDS, WORDS, WORDS)
def test_parsing_gives_back_what_was_written(organisation: str, name: str, revision: str) -> None:
    found = HubId.parse(f"{organisation}/{name}@{revision}")
    assert found == HubId(f"{organisation}/{name}", revision)
    assert found.name == name
    assert HubId.parse(str(found)) == found


def test_main_is_the_revision_that_nobody_writes() -> None:
    assert HubId.parse("org/name") == HubId.parse("org/name@main")
    assert str(HubId("org/name", "main")) == "org/name"
    assert HubId.parse("org/name@refs/pr/1") == HubId("org/name", "refs/pr/1")


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "a/b/c",
        "/org/name",
        "./name",
        "../name",
        "~/name",
        "org/",
        "org/.hidden",
        "org/name@",
        "org/name@../../x",
        "org/name@/x",
        "org/..name..",
        "org/name,org/other",
        "org/na me",
        "org/name\n",
        "örg/name",
        "",
    ],
)
def test_what_is_no_hub_id(text: str) -> None:
    assert HubId.parse(text) is None
