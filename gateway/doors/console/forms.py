"""Posted forms: received within bounds, and only from pages of the console."""

from __future__ import annotations

import asyncio
import hmac
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from gateway.doors.console.problems import Problem
from gateway.doors.console.visitor import Visitor

MAX_BYTES = 64 << 10
MAX_FIELDS = 100
CONTENT_TYPE = "application/x-www-form-urlencoded"


async def received_form(request: web.BaseRequest, limit_s: float) -> dict[str, str]:
    """Returns the fields of a form; of several with one name the last. Raises Problem."""
    _check_origin(request)
    if request.content_type != CONTENT_TYPE:
        raise Problem(415, "This is no form", f"Its content type is not {CONTENT_TYPE}.")
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limit_s):
            async for piece in request.content.iter_any():
                size += len(piece)
                if size > MAX_BYTES:
                    raise Problem(413, "The form is too large", f"At most {MAX_BYTES} bytes.")
                pieces.append(piece)
    except TimeoutError:
        raise Problem(408, "The form did not come", f"It took more than {limit_s:g} s.") from None
    try:
        text = b"".join(pieces).decode()
        found = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Problem(400, "This is no form", "Its fields cannot be read.") from None
    return dict(found)


def check_token(form: dict[str, str], visitor: Visitor) -> None:
    """Raises Problem unless a page made this form for this visitor."""
    if not hmac.compare_digest(form.get("csrf", "").encode(), visitor.csrf_token.encode()):
        text = "It was made for another session. Go back, load the page again, and send it again."
        raise Problem(403, "This form is not from here", text)


def _check_origin(request: web.BaseRequest) -> None:
    """Raises Problem for a form that a page of another site has sent. Browsers tell the origin; a
    proxy in front may have changed the host, and then they tell the relation at least."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site == "same-origin" or (site is None and origin is None):
        return
    if site is None and urlsplit(origin or "").netloc == request.headers.get("Host"):
        return
    raise Problem(403, "This form is not from here", "A page of another site has sent it.")
