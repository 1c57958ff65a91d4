"""Messages that cost a careless server far more than their bytes, and large honest ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from moegate.v1 import chat_pb2, generation_pb2

MIB = 1024 * 1024
MODEL = "bench"


@dataclass(frozen=True, slots=True)
class Case:
    """A request as bytes. `honest`: the gateway is to answer it; all others are refused."""

    name: str
    data: bytes
    honest: bool = False
    has_key: bool = True
    compression: grpc.Compression = grpc.Compression.NoCompression


def field(number: int, content: bytes) -> bytes:
    """A field with a size, on the wire."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """A number on the wire."""
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])


def request(*fields: bytes) -> bytes:
    """A request for one token."""
    return field(1, MODEL.encode()) + b"".join(fields) + b"\x30\x01"


def chat(content: bytes) -> bytes:
    """A request with a chat."""
    return request(field(2, content))


def cases() -> Iterator[Case]:
    """All cases, made one by one because of their size."""
    yield from hostile()
    yield from large()


def hostile() -> Iterator[Case]:
    """Many small elements, deep nesting, and much in little."""
    empty_messages = chat(field(1, b"") * 7_950_000)
    letter = field(1, field(2, field(1, b"a")) + b"\x08\x02")
    yield Case("8 M empty messages", empty_messages)
    yield Case("0.5 M empty messages, 1 MB", chat(field(1, b"") * 500_000))
    yield Case("8 M empty tools", chat(field(2, b"") * 7_950_000))
    yield Case("1.8 M messages of a letter", chat(letter * (16_000_000 // len(letter))))
    yield Case("0.1 M messages of a letter, 1 MB", chat(letter * (1_000_000 // len(letter))))
    yield Case("8 M empty parts of a message", chat(field(1, field(2, b"") * 7_950_000)))
    yield Case("8 M empty calls of a message", chat(field(1, field(4, b"") * 7_950_000)))
    yield Case("5 M empty chats", request(field(2, b"") * 7_950_000))
    yield Case("8 M empty stop texts", request(field(7, b"") * 7_950_000))
    yield Case("15 M token ids", request(field(4, field(1, b"\x01" * 15_900_000))))
    yield Case("8 M token ids, not packed", request(field(4, b"\x08\x01" * 7_950_000)))
    yield Case("5 M unknown fields", request(b"\xa0\x3e\x00" * 5_300_000))
    yield Case("4 M unknown groups", request(b"\xa3\x3e\xa4\x3e" * 3_950_000))
    yield Case("5 M times the model", field(1, b"b") * 5_300_000)
    most = 8192
    yield Case("8192 messages with every fault", chat(field(1, b"\x08\x63") * most))
    tool = field(2, field(1, b"f") + field(3, b'{"a":' * 40_000 + b"1" + b"}" * 40_000))
    yield Case("a schema 40,000 deep", chat(user("hi") + tool))
    tool = field(2, field(1, b"f") + field(3, b"[" * 15_000_000))
    yield Case("a schema of 15 MB", chat(user("hi") + tool))
    many = b"".join(
        field(2, field(1, b"f%d" % i) + field(3, b'{"a":[' + b"{}," * 80_000 + b"{}]}"))
        for i in range(40)
    )
    yield Case("40 schemas of 80,000 objects", chat(user("hi") + many), honest=True)
    yield Case("gzip of 8 M messages, no key", empty_messages, False, False, grpc.Compression.Gzip)
    yield Case("gzip of 8 M messages", empty_messages, compression=grpc.Compression.Gzip)
    zeros = request(field(3, bytes(200 * MIB)))
    yield Case("gzip of 200 MiB", zeros, compression=grpc.Compression.Gzip)
    yield Case("16 MB of noise", bytes(range(1, 256)) * 62_000)


def large() -> Iterator[Case]:
    """Requests within the bounds, each near one of them."""
    for name, letter in (
        ("ASCII", "a"),
        ("Chinese", "中"),
        ("emoji", "😀"),
        ("control characters", "\x01"),
        ("quotes", '"'),
    ):
        text = letter * (10_000_000 // len(letter.encode()))
        yield Case(f"10 MB of {name}", request(field(3, text.encode())), honest=True)
    wide = "a" * 9_999_990 + "😀"
    yield Case("10 MB of ASCII and an emoji", chat(user(wide)), honest=True)
    ids = generation_pb2.GenerateRequest(
        model=MODEL,
        max_output_tokens=1,
        prompt_tokens=chat_pb2.TokenInput(token_ids=[i % 150_000 for i in range(1_000_000)]),
    )
    yield Case("1 M token ids", ids.SerializeToString(), honest=True)
    image = field(2, field(2, field(1, bytes(range(256)) * 62_000) + field(3, b"image/png")))
    yield Case("a 15.9 MB image", chat(field(1, b"\x08\x02" + image)), honest=True)
    images = field(2, field(2, field(1, b"\xff" * 158_000) + field(3, b"image/png"))) * 100
    yield Case("100 images of 158 KB", chat(field(1, b"\x08\x02" + images)), honest=True)
    turns = chat_pb2.ChatInput()
    for i in range(4000):
        turns.messages.add(role=chat_pb2.ROLE_USER).parts.add(text=f"step {i} " * 100)
        call = turns.messages.add(role=chat_pb2.ROLE_ASSISTANT).tool_calls.add()
        call.id, call.name, call.arguments_json = f"c{i}", "run", '{"command": "ls -l"}'
    yield Case("8000 messages, 3.6 MB", chat(turns.SerializeToString()), honest=True)
    short_call = field(4, field(1, b"c") + field(2, b"f") + field(3, b"{}"))
    part = field(2, field(1, b"a"))
    full = field(1, b"\x08\x03" + part * 2 + short_call * 2) * 8191
    yield Case("8192 messages, 16,382 calls", chat(user("hi") + full), honest=True)
    tools = chat_pb2.ChatInput()
    properties = ",".join(f'"p{i}":{{"type":"string","description":"x"}}' for i in range(150))
    for i in range(1000):
        schema = f'{{"type":"object","properties":{{{properties}}}}}'
        tools.tools.add(name=f"tool_{i}", parameters_json_schema=schema)
    yield Case("1000 tools, 7 MB", chat(user("hi") + tools.SerializeToString()), honest=True)


def prompts() -> Iterator[Case]:
    """Prompts of 100,000 tokens."""
    text = ("The quick brown fox jumps over the lazy dog. " * 10_000)[:400_000]
    yield Case("text", request(field(3, text.encode())), honest=True)
    turns = b"".join(user(text[i : i + 2000]) for i in range(0, len(text), 2000))
    yield Case("chat of 200 messages", chat(turns), honest=True)
    chinese = "敏捷的棕色狐狸跳过懒狗" * 14_000
    yield Case("Chinese text", request(field(3, chinese.encode())), honest=True)
    ids = generation_pb2.GenerateRequest(
        model=MODEL,
        max_output_tokens=1,
        prompt_tokens=chat_pb2.TokenInput(token_ids=[i * 7 % 150_000 for i in range(100_000)]),
    )
    yield Case("token ids", ids.SerializeToString(), honest=True)


def user(text: str) -> bytes:
    """A message of a user, in a chat."""
    return field(1, b"\x08\x02" + field(2, field(1, text.encode())))
