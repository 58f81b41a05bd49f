"""Where keys come from, and that nothing tells them."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.engine.errors import InputError, UsageError
from flexquant.server.keys import Keys, load_keys, warn_of_command_line
from flexquant.server.main import main
from flexquant.server.settings import Settings, load_settings

KEY = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FLEXQUANT_{name.upper()}", raising=False)


def load(*arguments: str) -> Keys:
    return load_keys(load_settings(["--model", "demo", *arguments]))


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


@given(st.lists(KEY), st.lists(KEY), st.text())
def test_each_key_opens_and_nothing_else_does(plain: list[str], admin: list[str], other: str) -> None:
    keys = Keys.of(plain, admin)
    assert all(map(keys.opens, plain + admin))
    assert all(map(keys.is_admin, admin))
    assert keys.opens(other) is (other in plain + admin)
    assert keys.is_admin(other) is (other in admin)


def test_no_key_opens_nothing() -> None:
    assert not Keys().opens("")
    assert not Keys().is_admin("")


def test_keys_are_not_in_the_object() -> None:
    assert "secret" not in repr(Keys.of(["secret"], ["secret"]))


def test_keys_come_from_the_setting_and_from_files_together(tmp_path: Path) -> None:
    path = write(tmp_path, "# of the laptop\nfirst\n\n  second  \n")
    keys = load("--api-key", "own", "--api-key-file", str(path))
    assert all(map(keys.opens, ("own", "first", "second")))
    assert not any(map(keys.opens, ("", "# of the laptop", "  second  ")))
    assert load("--admin-key-file", str(path)).is_admin("first")
    assert not load("--api-key-file", str(path)).is_admin("first")


def test_environment_names_the_key_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXQUANT_ADMIN_KEY", "boss")
    monkeypatch.setenv("FLEXQUANT_API_KEY_FILE", str(write(tmp_path, "first")))
    keys = load()
    assert keys.is_admin("boss")
    assert keys.opens("first")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_file_that_others_can_read_is_warned_about(tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture) -> None:
    load("--api-key-file", str(write(tmp_path, "first", mode)))
    assert "chmod 600" in caplog.text
    assert "first" not in caplog.text


def test_file_of_ones_own_is_not_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load("--api-key-file", str(write(tmp_path, "first")))
    assert not caplog.records


@pytest.mark.parametrize(("text", "warned"), [('api_key = "first"', True), ("port = 1", False)])
def test_settings_with_a_key_in_them_are_such_a_file(
    tmp_path: Path, text: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    keys = load("--config", str(write(tmp_path, text, 0o644)))
    assert keys.opens("first") is warned
    assert ("chmod 600" in caplog.text) is warned
    assert "first" not in caplog.text


@pytest.mark.parametrize("text", ["", "\n# nothing\n"])
def test_file_without_a_key_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"--api-key-file .*: there is no key in it"):
        load("--api-key-file", str(write(tmp_path, text)))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--admin-key-file .*nowhere"):
        load("--admin-key-file", str(tmp_path / "nowhere"))


@pytest.mark.parametrize("key", ["two words", "schlüssel", "a\tb"])
def test_key_that_no_header_carries_is_refused_and_not_repeated(tmp_path: Path, key: str) -> None:
    with pytest.raises(UsageError) as refused:
        load("--api-key", key)
    assert key not in str(refused.value)
    with pytest.raises(UsageError, match="line 2") as refused:
        load("--api-key-file", str(write(tmp_path, f"fine\n{key}\n")))
    assert key not in str(refused.value)


@pytest.mark.parametrize(
    "arguments", [["--api-key", "secret"], ["--api-key=secret"], ["--port", "1", "--admin-key", "secret"]]
)
def test_key_on_the_command_line_is_warned_about(arguments: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_command_line(arguments)
    assert "on the command line" in caplog.text
    assert "secret" not in caplog.text


def test_key_in_a_file_or_nowhere_is_not_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_command_line(["--api-key-file", "keys", "--model", "--api-keys"])
    assert not caplog.records


@pytest.mark.parametrize("name", ["api", "admin"])
def test_help_and_errors_do_not_tell_a_key(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"FLEXQUANT_{name.upper()}_KEY", "open sesame")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert main(["--port", "many"]) == 2
    assert main(["--model", "demo", f"--{name}-key", ""]) == 2
    shown = capsys.readouterr()
    assert f"--{name}-key" in shown.out
    assert "sesame" not in shown.out + shown.err
