"""GET / and GET /dashboard/NAME: the page for people. Its files are in `server/dashboard/`; its data is the API's.

The names are those of the files that were installed: nothing in a request becomes a path.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Final

from fastapi import APIRouter, Header, Response
from starlette.exceptions import HTTPException

from flexquant.engine.errors import FlexQuantError
from flexquant.server.security import DASHBOARD

INDEX: Final = "index.html"
MEDIA_TYPES: Final[Mapping[str, str]] = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""What the page may do: load its own files and talk to its own daemon. No inline code, no other host, no frame around
it, and no text that becomes markup, whatever a model says."""
HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "no-cache",  # ask each time, so that a new version is seen; the tag makes that cheap
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

router = APIRouter()


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page, with its media type and an ETag that tells its content."""

    content: bytes
    media_type: str
    tag: str


@cache
def page_files() -> Mapping[str, PageFile]:
    """All files of the page by their names, read once, when somebody asks for the first.

    Raises:
        FlexQuantError: They are not installed.
    """
    found = {}
    folder = files("flexquant.server") / "dashboard"
    for file in folder.iterdir() if folder.is_dir() else ():
        media_type = MEDIA_TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None:
            content = file.read_bytes()
            found[file.name] = PageFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    if INDEX not in found:
        raise FlexQuantError("the dashboard is missing from this installation", hint="Install flexquant again.")
    return found


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
def index(if_none_match: Annotated[str, Header()] = "") -> Response:
    """The page."""
    return _answer(INDEX, if_none_match)


@router.head(DASHBOARD + "{name}", include_in_schema=False)
@router.get(DASHBOARD + "{name}", include_in_schema=False)
def part(name: str, if_none_match: Annotated[str, Header()] = "") -> Response:
    """A file that the page consists of."""
    return _answer(name, if_none_match)


def _answer(name: str, known: str) -> Response:
    """The file, or a 304 where the browser's copy, tagged as in its header If-None-Match, is still right."""
    file = page_files().get(name)
    if file is None:
        raise HTTPException(404)
    headers = {**HEADERS, "etag": file.tag}
    if known.strip() == "*" or file.tag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
