"""Static files of the console: style, script, icon. Their addresses carry a hash of the content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from aiohttp import web

PREFIX = "/static/"
_KEPT = "public, max-age=31536000, immutable"
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file. `version`: hash of its content."""

    content: bytes
    content_type: str
    version: str


class Assets:
    """The files of the folder `static`, read once."""

    def __init__(self) -> None:
        self._by_name: dict[str, Asset] = {}
        for file in resources.files("gateway.doors.console").joinpath("static").iterdir():
            content_type = _TYPES.get(file.name.rpartition(".")[2])
            if content_type is not None:
                content = file.read_bytes()
                version = hashlib.sha256(content).hexdigest()[:12]
                self._by_name[file.name] = Asset(content, content_type, version)

    def address(self, name: str) -> str:
        """Returns the path of a file, which changes with its content."""
        return f"{PREFIX}{name}?v={self._by_name[name].version}"

    def answer(self, path: str, version: str) -> web.Response | None:
        """Returns the answer for a path; None: there is no such file. `version`: of the address.
        The page may be of a gateway with another version: browsers keep only what is of theirs."""
        asset = self._by_name.get(path.removeprefix(PREFIX))
        if asset is None:
            return None
        return web.Response(
            body=asset.content,
            content_type=asset.content_type,
            charset="utf-8",
            headers={"Cache-Control": _KEPT if version == asset.version else "no-store"},
        )
