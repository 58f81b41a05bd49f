"""The daemon's settings: one class gives the command line flag, the environment variable and the TOML key.

`memory_budget` is `--memory-budget`, `FLEXQUANT_MEMORY_BUDGET` and `memory_budget = "2G"` in the file that `--config`
names. The order is: command line, environment, file, default. Nothing heavy is imported here: `--help` is immediate.
"""

import argparse
import re
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from flexquant.engine import sizes
from flexquant.engine.errors import InputError, UsageError

PROGRAM: Final = "flexquant-serve"


def parse_size(text: object) -> object:
    """See `sizes.parse_size`. Anything but text is returned as it is, for the integer check that follows."""
    return sizes.parse_size(text) if isinstance(text, str) else text


def _split_commas(text: object) -> object:
    return [part.strip() for part in text.split(",") if part.strip()] if isinstance(text, str) else text


Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]
Pids = Annotated[tuple[Annotated[int, Field(gt=0)], ...], NoDecode, BeforeValidator(_split_commas)]


class Settings(BaseSettings):
    """Settings of `flexquant-serve`."""

    model_config = SettingsConfigDict(
        env_prefix="FLEXQUANT_",
        cli_prog_name=PROGRAM,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
    )

    model: str = Field(
        description="What to serve: 'demo', an ensemble folder, a Hugging Face checkpoint as a folder or as "
        "'org/name[@revision]' on the hub, or two EXL2 checkpoints as 'A,B'. Checkpoints become an ensemble on first "
        "use and are cached."
    )
    verify: bool = Field(default=False, description="Compare the sha256 of every file of the ensemble before serving.")
    alias: Names = Field(
        default=(), description="Further names that requests may give as `model`, separated by commas."
    )
    accept_any_model: bool = Field(
        default=False, description="Answer whatever name a request gives as `model`, instead of 404."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    api_key: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="Clients must send this key; only /health and /ready stay open. Better given as "
        "FLEXQUANT_API_KEY: other users of the machine can read command lines.",
    )
    api_key_file: Path | None = Field(default=None, description="File with further keys of this kind, one a line.")
    admin_key: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="With it, moving the model (POST below /v1/elastic) needs this key. It opens everything else, too.",
    )
    admin_key_file: Path | None = Field(default=None, description="File with further keys of this kind, one a line.")
    allow_unauthenticated: bool = Field(
        default=False, description="Listen beyond loopback even though no API key is set."
    )
    allow_host: Names = Field(
        default=(),
        description="Names that clients may use for this machine in the Host header, beyond localhost, its host name "
        "and addresses; separated by commas, '*' for any.",
    )
    context: int | None = Field(
        default=None,
        gt=0,
        description="Most tokens of prompt and answer together. Default: what the model and the memory allow.",
    )
    memory_budget: Size | None = Field(
        default=None,
        description="The most memory that this daemon may use, such as 2G or 512MiB. "
        "Default: what the machine can spare.",
    )
    sequence: str | None = Field(
        default=None,
        description="Which of the ensemble's transition sequences to follow, such as 'block'. Default: its first one.",
    )
    pin: int | None = Field(
        default=None, ge=0, description="Hold this position of the sequence instead of following the memory (0 = best)."
    )
    worst_position: int | None = Field(
        default=None, ge=0, description="Never go beyond this position, whatever the pressure."
    )
    profile: Literal["polite", "balanced", "greedy"] = Field(
        default="balanced", description="How much memory is left to other programs."
    )
    reserve_critical: Size | None = Field(default=None, description="Below this much available, give up all at once.")
    reserve_low: Size | None = Field(default=None, description="Below this much available, start to shrink.")
    reserve_target: Size | None = Field(default=None, description="Shrink until this much is available.")
    reserve_high: Size | None = Field(default=None, description="Grow only while this much stays available.")
    grow_window: float | None = Field(default=None, description="Seconds for which memory must be free before growing.")
    cooldown: float | None = Field(default=None, description="Seconds without growth after a shrink.")
    simulated_memory: Size | None = Field(
        default=None,
        description="For trying out pressure: act as if the machine had this much memory, shared by this daemon and "
        "the processes of --simulated-pids alone.",
    )
    simulated_pids: Pids = Field(default=(), description="Process ids, separated by commas.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="Where to compute: 'cuda' is an NVIDIA GPU and needs flexquant[cuda], 'auto' takes it where both "
        "are there. A model that is built at its first start is built there, too.",
    )
    keep_copies: bool = Field(
        default=False,
        description="With a GPU: keep a page-locked copy in the host's memory of all weights that were read, so that "
        "steps read no file. Takes as much as all levels together.",
    )
    threads: int | None = Field(
        default=None, gt=0, description="Threads that compute. Default: the physical cores that may be used."
    )
    kernels: str = Field(
        default="auto",
        description="How to compute: 'auto', 'torch', or a set of native kernels such as 'avx2'; for comparing them.",
    )
    parallel: int = Field(
        default=4, ge=1, le=8, description="Answers that are computed at a time; each choice of a request is one."
    )
    max_queue: int = Field(
        default=32, ge=0, description="Answers that may wait beyond these; more are refused with 503."
    )
    request_timeout: float | None = Field(
        default=None, gt=0, description="Seconds that a request may take, waiting included. Default: no limit."
    )
    max_body: Size = Field(default=4 * 2**20, description="Largest request body.")
    max_connections: int = Field(
        default=256, ge=1, description="Connections that may be open at a time; more are refused with 503."
    )
    client_timeout: float = Field(
        default=30.0,
        gt=0,
        description="Seconds that a client may take to send a request's head, as long again for its body, and to read "
        "on when an answer waits for it.",
    )
    shutdown_timeout: float = Field(
        default=15.0,
        ge=0,
        description="Seconds that running requests get to finish after SIGTERM or SIGINT; a second signal ends them.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level to log.")
    log_format: Literal["text", "json"] = Field(
        default="text", description="Lines for people, or one JSON object a line for programs."
    )
    config: Path | None = Field(default=None, description="TOML file with these settings (keys with underscores).")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, file_secret_settings, TomlSource(settings_cls)


class TomlSource(PydanticBaseSettingsSource):
    """The TOML file that a stronger source (command line or environment) names as `config`."""

    def get_field_value(self, field: object, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError("the file is read as a whole")

    def __call__(self) -> dict[str, Any]:
        named = self.current_state.get("config")
        if named is None:
            return {}
        path = Path(named)
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"--config: {path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"--config: {path} is not valid TOML: {error}") from error
        for key in found:
            if key not in Settings.model_fields or key == "config":
                raise UsageError(
                    f"--config: {path}: unknown setting {key!r}",
                    hint=f"{PROGRAM} --help lists the settings; in the file they are written with underscores.",
                )
        return found


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as a UsageError, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{PROGRAM} --help lists the flags.")


def _add_argument(parser: argparse.ArgumentParser, *flags: str, **options: Any) -> None:
    """Name a flag's value after its last word (`--api-key KEY`), not after its Python type."""
    if "metavar" in options and not str(options["metavar"]).startswith("{"):
        options["metavar"] = flags[-1].rsplit("-", 1)[-1].upper()
    options["help"] = re.sub(r" \(default: (null|\(\)|None)\)$", "", options.get("help") or "")
    parser.add_argument(*flags, **options)


def load_settings(arguments: Sequence[str]) -> Settings:
    """Settings from the command line `arguments`, the environment and the file that they name.

    `--help` and `--version` print and raise SystemExit(0).

    Raises:
        UsageError: A flag is unknown or a value cannot be used; the message names the setting.
        InputError: The TOML file is missing or damaged.
    """
    parser = _Parser(prog=PROGRAM, description="Serve a model that gives memory back while it keeps talking.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version('flexquant')}")
    command_line = CliSettingsSource[argparse.ArgumentParser](
        Settings, root_parser=parser, add_argument_method=_add_argument, formatter_class=argparse.HelpFormatter
    )
    try:
        return Settings(
            _cli_settings_source=command_line(args=list(arguments)),  # type: ignore[call-arg]  # see the call below
        )
    except ValidationError as error:
        raise _usage_error(error) from error
    except SettingsError as error:
        raise UsageError(str(error)) from error


_SECRETS: Final = ("api_key", "admin_key")


def _usage_error(error: ValidationError) -> UsageError:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    if first["type"] == "missing" and name == "model":
        return UsageError("--model is missing", hint=f"Try the embedded demo: {PROGRAM} --model demo")
    given = "" if name in _SECRETS else f" (given: {first['input']!r})"
    return UsageError(
        f"{name}: {first['msg']}{given}",
        hint=f"Set it with --{name.replace('_', '-')}, FLEXQUANT_{name.upper()} or {name} in the file of --config.",
    )
