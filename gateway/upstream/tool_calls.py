"""Tool calls of all servers in one form: whole indexes from 0, unique ids, arguments that add up.

Servers differ in how they cut calls into pieces and in how they say which call a piece belongs to.
The client gets each call as a head (id and name, once) and pieces of arguments.

- A call begins with an id that is new, or with an index that is new, or, where a server numbers all
  calls 0 or not at all, with a name after the arguments before it are complete.
- An id or a name that is repeated with each piece is told once. A name in several pieces is put
  together: the head waits for the first arguments.
- Arguments that are sent again as a whole, or that grow with each piece, are told once.
- Arguments that were made JSON twice, and come as a whole, are read once more.
- A missing or repeated id is replaced by one that the gateway makes.
- A call without arguments has the arguments {} when it ends.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable

import msgspec
from msgspec import structs

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Signature, ToolCall
from gateway.upstream.half_characters import HalfCharacters, whole
from gateway.upstream.json_nesting import JsonNesting

MAX_TOOL_CALLS = 1 << 12
"""Most tool calls of one choice."""
_ID_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_ID_LENGTH = 9
"""Mistral takes ids of 9 letters and digits only; all other servers take these, too."""


class CallPiece(msgspec.Struct, frozen=True, kw_only=True):
    """One piece as a server sent it. `index`: None: the server gives none. `arguments` are JSON
    text. `signatures`: see `ToolCall`."""

    index: int | None = None
    id: str = ""
    name: str = ""
    arguments: str = ""
    signatures: tuple[Signature, ...] = ()


class _Call:
    """One call so far. `sent`: the client has its head; `held`: arguments {} that may stand for
    those that follow; `signatures`: those that the client does not have."""

    __slots__ = (
        *("_complete", "_nesting", "_pieces", "_size", "_text", "_unseen"),
        *("held", "id", "index", "name", "sent", "signatures"),
    )

    def __init__(self, index: int, server_id: str) -> None:
        self.index = index
        self.id = server_id
        self.name = ""
        self.sent = False
        self.held = ""
        self.signatures: tuple[Signature, ...] = ()
        self._text = ""
        self._size = 0
        self._pieces: list[str] = []
        self._unseen: list[str] = []
        """Pieces that the nesting has not seen."""
        self._nesting = JsonNesting()
        self._complete: bool | None = False

    def append(self, arguments: str) -> None:
        """Adds arguments that the client gets."""
        self._pieces.append(arguments)
        self._unseen.append(arguments)
        self._size += len(arguments)
        self._complete = None

    @property
    def arguments(self) -> str:
        """All arguments so far. Pieces are joined only where the whole is looked at."""
        if self._pieces:
            self._text += "".join(self._pieces)
            self._pieces = []
        return self._text or self.held

    @property
    def has_arguments(self) -> bool:
        """Whether any arguments have come."""
        return bool(self._text or self._pieces or self.held)

    @property
    def is_complete(self) -> bool:
        """Whether the arguments are a whole JSON object."""
        if self.held:
            return True
        if self._complete is None:
            self._nesting.feed("".join(self._unseen))
            self._unseen = []
            self._complete = self._nesting.is_closed and _is_object(self.arguments)
        return bool(self._complete)

    def is_begun_by(self, arguments: str) -> bool:
        """Whether these are the arguments so far, as they are written, and more."""
        # Only a longer text is compared, so that many pieces cost no more than they are long.
        return len(arguments) > self._size and arguments.startswith(self.arguments)

    def repeats(self, arguments: str) -> bool:
        """Whether these are the arguments again, as a whole."""
        return self.is_complete and _same(self.arguments, arguments)


def made_id() -> str:
    """An id that no other call has."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))


class ToolCallNormaliser:
    """Tool calls of one choice: `add` pieces as they come, `end` when the choice has ended.

    `tool_names`: names of the tools of the request, which tell a name in two pieces from two calls;
    `new_id`: makes ids.
    """

    __slots__ = ("_by_index", "_calls", "_halves", "_ids", "_new_id", "_tool_names")

    def __init__(
        self, tool_names: frozenset[str] = frozenset(), new_id: Callable[[], str] = made_id
    ) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._ids: set[str] = set()
        self._halves = HalfCharacters()
        self._tool_names = tool_names
        self._new_id = new_id

    def __len__(self) -> int:
        """Number of calls so far."""
        return len(self._calls)

    def add(self, piece: CallPiece) -> list[ToolCall]:
        """What the client gets of a piece. Raises UpstreamFailure: too many calls."""
        ready: list[ToolCall] = []
        if piece.arguments.startswith('"') and not self._is_amid(piece.index):
            piece = structs.replace(piece, arguments=_unquoted(piece.arguments))
        call = self._call_of(piece, ready)
        if call is None:
            return ready
        self._add_name(call, piece.name)
        call.signatures += piece.signatures
        arguments = self._new_arguments(call, piece.arguments)
        if arguments or (call.sent and call.signatures):
            self._send(call, arguments, ready)
        return ready

    def close(self, index: int) -> list[ToolCall]:
        """What is left of the call with this index of the server, which gets no more pieces."""
        ready: list[ToolCall] = []
        call = self._by_index.get(index)
        if call is not None:
            self._close(call, ready, complete=True)
        return ready

    def end(self, *, complete: bool = True) -> list[ToolCall]:
        """What is left when the choice has ended. `complete`: it was not cut by a limit, so that
        a call without arguments has none."""
        ready: list[ToolCall] = []
        for call in self._calls:
            self._close(call, ready, complete=complete)
        return ready

    def _is_amid(self, index: int | None) -> bool:
        """Whether arguments have begun that a piece with this index may continue."""
        call = None if index is None else self._by_index.get(index)
        call = call or (self._calls[-1] if self._calls else None)
        return call is not None and call.has_arguments and not call.is_complete

    def _close(self, call: _Call, ready: list[ToolCall], *, complete: bool) -> None:
        rest = call.held + self._halves.rest(str(call.index))
        if complete and not call.has_arguments:
            rest = "{}"
        call.held = ""
        if rest or not call.sent:
            self._send(call, rest, ready)

    def _call_of(self, piece: CallPiece, ready: list[ToolCall]) -> _Call | None:
        """The call that a piece belongs to, which may begin with it; None: the piece says
        nothing."""
        last = self._calls[-1] if self._calls else None
        place = last if piece.index is None else self._by_index.get(piece.index)
        if piece.id:
            call = self._by_id(piece, place)
        elif place is not None:
            call = None if self._begins(place, piece) else place
        elif piece.name or last is None or last.is_complete:
            call = None
        else:
            call = last  # some servers count up with every piece
        if call is not None:
            return call
        if not (piece.id or piece.name or piece.arguments.strip()):
            return None
        return self._begin(piece, ready)

    def _by_id(self, piece: CallPiece, place: _Call | None) -> _Call | None:
        """The call of a piece with an id; None: the piece begins one."""
        if place is not None and piece.index is not None:
            if place.id == piece.id:
                return None if self._begins(place, piece) else place
            if not place.id and not self._begins(place, piece):
                place.id = piece.id  # the id comes after the name
                return place
        call = next((c for c in reversed(self._calls) if c.id == piece.id), None)
        if call is not None:
            # With a name, at another index: two calls of one id.
            elsewhere = piece.index is not None and self._by_index.get(piece.index) is not call
            return None if (elsewhere and piece.name) or self._begins(call, piece) else call
        if place is None or piece.index is None:
            return None
        # Some servers make a new id for every piece. Parallel calls at one index come whole.
        unfinished = place.has_arguments and not place.is_complete
        if unfinished and piece.name in ("", place.name):
            return place
        return place if not piece.name and not _is_object(piece.arguments) else None

    def _begins(self, call: _Call, piece: CallPiece) -> bool:
        """Whether a piece at the place of `call` begins another call."""
        if not piece.name:
            if call.held or not _is_object(piece.arguments) or not call.is_complete:
                return False
            return piece.arguments.strip() != "{}" and not call.repeats(piece.arguments)
        if not call.has_arguments:
            # A name in pieces, or repeated, or another call without arguments.
            known = self._tool_names
            return call.name != piece.name and call.name in known and piece.name in known
        if piece.name != call.name:
            return bool(call.name)
        return (
            call.is_complete
            and piece.arguments.lstrip().startswith("{")
            and not call.repeats(piece.arguments)
        )

    def _begin(self, piece: CallPiece, ready: list[ToolCall]) -> _Call:
        if len(self._calls) >= MAX_TOOL_CALLS:
            message = f"more than {MAX_TOOL_CALLS} tool calls in one answer"
            raise UpstreamFailure(FailureKind.PROTOCOL, message)
        for earlier in self._calls[-1:]:
            if not earlier.sent:
                self._send(earlier, "", ready)  # its name is whole
        call = _Call(len(self._calls), piece.id)
        self._calls.append(call)
        self._by_index[call.index if piece.index is None else piece.index] = call
        return call

    def _add_name(self, call: _Call, name: str) -> None:
        if not name or call.sent:
            return
        together = call.name + name
        if together in self._tool_names and call.name not in self._tool_names:
            call.name = together
        elif name.startswith(call.name):
            call.name = name  # the whole name so far, again
        else:
            call.name = together

    def _new_arguments(self, call: _Call, arguments: str) -> str:
        """The arguments of a piece that the client does not have."""
        if not arguments or not ((call.has_arguments and not call.held) or arguments.strip()):
            return ""  # spaces before the arguments
        if call.held:
            call.held = ""  # {} stood for arguments that follow
        elif not call.has_arguments and arguments.strip() in ("{}", "null"):
            call.held = "{}"
            return ""
        elif arguments.lstrip().startswith("{") and call.is_complete:
            return ""  # all of them again
        elif arguments.startswith("{") and call.is_begun_by(arguments):
            arguments = arguments[len(call.arguments) :]  # all so far again, and more
        return self._halves.joined(str(call.index), arguments)

    def _send(self, call: _Call, arguments: str, ready: list[ToolCall]) -> None:
        if arguments:
            call.append(arguments)
        signatures, call.signatures = call.signatures, ()
        if call.sent:
            piece = ToolCall(index=call.index, arguments_json=arguments, signatures=signatures)
            ready.append(piece)
            return
        call.sent = True
        call_id = whole(call.id)
        while not call_id or call_id in self._ids:
            call_id = self._new_id()
        self._ids.add(call_id)
        ready.append(
            ToolCall(
                index=call.index,
                id=call_id,
                name=whole(call.name),
                arguments_json=arguments,
                signatures=signatures,
            )
        )


def _is_object(text: str) -> bool:
    """Whether a text is a whole JSON object."""
    text = text.strip()
    if not (text.startswith("{") and text.endswith("}")):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _unquoted(text: str) -> str:
    """The object that a text holds as a JSON string; the text itself if it holds none."""
    try:
        inner = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return inner if isinstance(inner, str) and _is_object(inner) else text


def _same(one: str, other: str) -> bool:
    """Whether two texts of whole objects have the same values."""
    if one.strip() == other.strip():
        return True
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False
