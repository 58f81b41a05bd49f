"""Who holds a key: read from settings and files, kept as digests, compared in constant time."""

import hashlib
import hmac
import logging
import stat
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pydantic import SecretStr

from flexquant.engine.errors import InputError, UsageError
from flexquant.server.settings import Settings

log = logging.getLogger(__name__)

COMMAND_LINE_FLAGS: Final = ("--api-key", "--admin-key")
_SETTINGS: Final = frozenset({"api_key", "admin_key"})
_COMMENT: Final = "#"


@dataclass(frozen=True, slots=True)
class Keys:
    """What opens the daemon: nobody who reads this object learns a key.

    Args:
        plain: Digests of the keys that all but the open paths ask for; empty asks for none.
        admin: Digests of the keys that changing the daemon asks for; empty: `plain` is enough. They open the rest, too.
    """

    plain: tuple[bytes, ...] = ()
    admin: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, plain: Iterable[str] = (), admin: Iterable[str] = ()) -> Self:
        """From the keys themselves."""
        return cls(tuple(map(_digest, plain)), tuple(map(_digest, admin)))

    def opens(self, given: str) -> bool:
        """Whether `given` is one of the keys, an admin's included."""
        return _among(_digest(given), (*self.plain, *self.admin))

    def is_admin(self, given: str) -> bool:
        """Whether `given` is an admin's key."""
        return _among(_digest(given), self.admin)


def _digest(key: str) -> bytes:
    """Of one length for every key, so that the comparison tells nothing about it."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _among(digest: bytes, known: Sequence[bytes]) -> bool:
    """Compares with all of them, whichever fits."""
    found = False
    for other in known:
        found |= hmac.compare_digest(digest, other)
    return found


def load_keys(settings: Settings) -> Keys:
    """The keys that the settings give, themselves and in files; warns of files that others can read.

    Raises:
        UsageError: A key has characters that no header can carry, or a file holds none.
        InputError: A file cannot be read.
    """
    if settings.config is not None and _SETTINGS & tomllib.loads(settings.config.read_text(encoding="utf-8")).keys():
        _warn_if_readable(settings.config, f"--config {settings.config}")
    return Keys.of(
        _given("api_key", settings.api_key, settings.api_key_file),
        _given("admin_key", settings.admin_key, settings.admin_key_file),
    )


def _given(name: str, key: SecretStr | None, path: Path | None) -> list[str]:
    keys = [] if key is None else [_checked(key.get_secret_value(), name)]
    if path is not None:
        keys += _read(path, f"--{name.replace('_', '-')}-file {path}")
    return keys


def _read(path: Path, flag: str) -> list[str]:
    """The keys in a file: one a line; empty lines and those that begin with # are none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{flag}: it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{flag}: it is not a text file") from error
    keys = [
        _checked(line.strip(), f"{flag}: line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith(_COMMENT)
    ]
    if not keys:
        raise UsageError(f"{flag}: there is no key in it", hint="Write one key a line.")
    _warn_if_readable(path, flag)
    return keys


def _warn_if_readable(path: Path, flag: str) -> None:
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s: other users of this machine can read the keys in it; chmod 600 keeps them out", flag)


def _checked(key: str, source: str) -> str:
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(
            f"{source}: a key has characters that clients cannot send in a header",
            hint="Use printable ASCII characters without spaces, such as `openssl rand -hex 32` prints.",
        )
    return key


def warn_of_command_line(arguments: Sequence[str]) -> None:
    """Say so when a key stands on the command line: every user of the machine can read it there."""
    for flag in COMMAND_LINE_FLAGS:
        if any(argument.partition("=")[0] == flag for argument in arguments):
            log.warning(
                "%s is on the command line, which every user of this machine can read; FLEXQUANT_%s or %s-file are not",
                flag,
                flag.removeprefix("--").replace("-", "_").upper(),
                flag,
            )
