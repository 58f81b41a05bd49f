"""The rule table of the settings: where a value comes from, and what is refused."""

from pathlib import Path

import pytest

from flexquant.engine.errors import InputError, UsageError
from flexquant.server.settings import Settings, load_settings, parse_size


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FLEXQUANT_{name.upper()}", raising=False)


def load(*arguments: str) -> Settings:
    return load_settings(["--model", "demo", *arguments])


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "flexquant.toml"
    path.write_text(text)
    return str(path)


def test_default_is_used_when_nothing_is_set() -> None:
    assert load().port == 8000
    assert load().host == "127.0.0.1"


def test_file_beats_default(tmp_path: Path) -> None:
    assert load("--config", write(tmp_path, "port = 1")).port == 1


def test_environment_beats_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXQUANT_PORT", "2")
    assert load("--config", write(tmp_path, "port = 1")).port == 2


def test_command_line_beats_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXQUANT_PORT", "2")
    assert load("--config", write(tmp_path, "port = 1"), "--port", "3").port == 3


def test_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXQUANT_CONFIG", write(tmp_path, 'model = "folder"'))
    assert load_settings([]).model == "folder"


def test_each_setting_is_taken_from_its_own_strongest_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXQUANT_CONTEXT", "200")
    found = load("--config", write(tmp_path, 'context = 100\nmax_queue = 7\nmemory_budget = "1G"'), "--max-queue", "9")
    assert (found.context, found.max_queue, found.memory_budget) == (200, 9, 2**30)


def test_empty_value_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXQUANT_API_KEY", "")
    assert load().api_key is None
    assert load("--memory-budget", "").memory_budget is None


def test_lists_are_separated_by_commas_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load("--alias", "a, b").alias == ("a", "b")
    assert load("--alias", "a", "--alias", "b").alias == ("a", "b")
    assert load("--config", write(tmp_path, 'alias = ["a", "b"]')).alias == ("a", "b")
    monkeypatch.setenv("FLEXQUANT_ALIAS", "a,b")
    monkeypatch.setenv("FLEXQUANT_SIMULATED_PIDS", "1,2")
    assert load().alias == ("a", "b")
    assert load().simulated_pids == (1, 2)


def test_flag_without_value_switches_on() -> None:
    assert load("--allow-unauthenticated").allow_unauthenticated


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("4096B", 4096),
        ("512MiB", 512 * 2**20),
        ("512m", 512 * 2**20),
        ("2G", 2 * 2**30),
        ("2 GiB", 2 * 2**30),
        ("2GB", 2 * 10**9),
        ("1.5k", 1536),
    ],
)
def test_sizes_have_human_units(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert load("--memory-budget", text).memory_budget == size


@pytest.mark.parametrize("text", ["lots", "-1G", "2 G B", "5XB", "1e9", "0", "nan", "2G!"])
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="memory_budget") as refused:
        load(f"--memory-budget={text}")
    assert "--memory-budget" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--port", "65536"], "port"),
        (["--port", "-1"], "port"),
        (["--port", "http"], "port"),
        (["--context", "0"], "context"),
        (["--max-queue", "-1"], "max_queue"),
        (["--pin", "-1"], "pin"),
        (["--log-level", "loud"], "log_level"),
        (["--nonsense"], "--nonsense"),
        (["--simulated-pids", "a"], "simulated_pids"),
    ],
)
def test_bad_value_names_the_setting(arguments: list[str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        load(*arguments)


def test_missing_model_points_to_the_demo() -> None:
    with pytest.raises(UsageError, match="--model") as refused:
        load_settings([])
    assert "--model demo" in (refused.value.hint or "")


def test_unknown_key_in_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prot"):
        load("--config", write(tmp_path, "prot = 1"))


def test_bad_value_in_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="port"):
        load("--config", write(tmp_path, 'port = "x"'))


def test_missing_or_damaged_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.toml"):
        load("--config", str(tmp_path / "gone.toml"))
    with pytest.raises(InputError, match="TOML"):
        load("--config", write(tmp_path, "port = "))


def test_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXQUANT_API_KEY", "open sesame")
    assert "sesame" not in repr(load())
    monkeypatch.setenv("FLEXQUANT_PORT", "x")
    with pytest.raises(UsageError) as refused:
        load()
    assert "sesame" not in f"{refused.value} {refused.value.hint}"


def test_help_and_version_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load_settings(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in shown
    with pytest.raises(SystemExit) as ended:
        load_settings(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("flexquant-serve ")
