"""What keys do in top."""

from hypothesis import given
from hypothesis import strategies as st

from flexquant.clients.top.controls import Action, Auto, Controls, Pin, Quit, keys_in


def pressed(text: str) -> tuple[list[Action], Controls]:
    """The actions that typing this asks for."""
    controls = Controls()
    found = [controls.press(key) for key in keys_in(text)]
    return [action for action in found if action is not None], controls


def test_keys_ask_for_what_they_should() -> None:
    assert pressed("a")[0] == [Auto()]
    assert pressed("q")[0] == [Quit()]
    assert pressed("p12\r")[0] == [Pin(12)]
    assert pressed("p12\n")[0] == [Pin(12)]
    assert pressed("p13\x7f2\r")[0] == [Pin(12)]


def test_a_position_that_is_not_entered_is_not_asked_for() -> None:
    for typed in ("p12", "p12\x1b", "p\r", "p\x7f\r"):
        assert pressed(typed)[0] == []
    assert pressed("p12\x1bq")[0] == [Quit()]


def test_while_a_position_is_typed_letters_mean_nothing() -> None:
    actions, controls = pressed("pqa1")
    assert (actions, controls.asking) == ([], "1")


def test_arrows_and_function_keys_are_no_keys() -> None:
    assert keys_in("\x1b[A\x1b[1;5C\x1bOP\x1b[15~q") == ["q"]
    assert keys_in("\x1b") == ["\x1b"]


@given(st.text(alphabet="pqa0123456789\r\x1b\x7f x\x1b[A", max_size=60))
def test_whatever_is_typed_pins_are_numbers(text: str) -> None:
    actions, controls = pressed(text)
    assert all(action.position >= 0 for action in actions if isinstance(action, Pin))
    assert controls.asking is None or controls.asking == "" or controls.asking.isdigit()
