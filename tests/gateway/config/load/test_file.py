"""Loading a configuration: what is right loads, every mistake is told with path, value and fix."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config.gateway import GatewayConfig, KeyRole, SecretConfig
from gateway.config.load.file import ConfigError, Problem, load, parse
from gateway.config.problems import shown
from gateway.config.resolve.secrets import resolve
from scheduler.contract import SloClass

HASH = "5ac1edff2f8e7ea543af1077fd80670dcabfdabe0ebe65634733358d3b748f31"
OTHER_HASH = hashlib.sha256(b"mg-another-demo-key").hexdigest()
EXAMPLE = Path(__file__).resolve().parents[4] / "examples" / "moegate.yaml"

BASE = f"""
pools:
  - name: qwen
    model: Qwen3-30B-A3B
    replicas:
      - {{name: a, url: "http://vllm-0:8000"}}
      - {{name: b, url: "http://vllm-1:8000"}}
    gpu: {{type: H100-80GB, count: 1, usd_per_gpu_hour: "2.10"}}
    moe: {{experts: 128, experts_per_token: 8}}
    context_tokens: 32768
  - name: spare
    model: Qwen3-30B-A3B
    replicas: [{{name: a, url: "http://vllm-2:8000"}}]
    gpu: {{type: H100-80GB, count: 1}}
remotes:
  - name: overflow
    remote_class: eu
    model: Qwen3-30B-A3B
    url: https://api.example.com
tenants:
  - name: search
    keys:
      - {{id: one, sha256: {HASH}, models: [Qwen3-30B-A3B], remote_classes: [eu]}}
      - {{id: two, sha256: {OTHER_HASH}, role: operator, slo_classes: [batch]}}
  - name: ads
server: {{listen: "[::1]:50051"}}
"""


def check(text: bytes | str, base_dir: Path = Path()) -> GatewayConfig:
    return parse(text, "moegate.yaml", base_dir)


def problems(text: bytes | str, base_dir: Path = Path()) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        check(text, base_dir)
    for problem in caught.value.problems:
        for part in (problem.path, problem.value, problem.message, problem.fix):
            assert part in str(caught.value)
    return caught.value.problems


def changed(*edits: tuple[str, Any]) -> str:
    """BASE with the values at these paths, such as pools.0.name, replaced; ... removes."""
    data = yaml.safe_load(BASE)
    for path, value in edits:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        at = data
        for part in parents:
            at = at[part] if isinstance(part, int) else at.setdefault(part, {})
        if value is ...:
            del at[last]
        else:
            at[last] = value
    return yaml.safe_dump(data, sort_keys=False)


def test_what_is_right_loads_with_its_defaults() -> None:
    config = check(BASE)
    assert [replica.name for replica in config.pools[0].replicas] == ["a", "b"]
    assert config.pools[0].gpu.usd_per_gpu_hour == "2.10"
    assert config.tenants[0].keys[0].role is KeyRole.CALLER
    assert config.tenants[0].keys[1].role is KeyRole.OPERATOR
    assert config.tenants[0].keys[1].slo_classes == (SloClass.BATCH,)
    assert config.limits.attempts == 3
    assert config.server.listen == "[::1]:50051"
    assert check(changed()) == config


def test_every_default_lies_within_its_own_bounds(tmp_path: Path) -> None:
    path = tmp_path / "whole.yaml"
    config = check(BASE)
    path.write_bytes(msgspec.yaml.encode(config))
    assert load(path) == config


def test_the_example_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERFLOW_API_KEY", "sk-test")
    config = load(EXAMPLE)
    (key,) = config.tenants[0].keys
    assert key.sha256 == hashlib.sha256(b"mg-demo-key-do-not-use").hexdigest() == HASH


# One mistake each: path in `changed`, the new value; then path, value, part of the message and of
# the fix that are told.
SHAPE: list[tuple[str, Any, str, str, str, str]] = [
    ("pools.0.replicas.1.urll", "http://x", "pools[0].replicas[1].urll",
     "a text of 8 characters", "unknown field", "did you mean url?"),
    ("pools.0.zzz", 1, "pools[0].zzz", "a number", "unknown field", "name, model, upstream_model"),
    ("pool", [], "pool", "a list of 0 items", "unknown field", "did you mean pools?"),
    ("pools.0.replicas.1.url", ..., "pools[0].replicas[1].url", "nothing", "missing field",
     "add url: address of its OpenAI API, without /v1"),
    ("pools.0.name", 7, "pools[0].name", "7", "expected text: letters", 'quotes around it: "7"'),
    ("pools.0.name", "a b", "pools[0].name", '"a b"', "letters, digits", "letters, digits"),
    ("pools.0.name", "a\n", "pools[0].name", r'"a\n"', "line break", "remove it"),
    ("pools.0.model", None, "pools[0].model", "nothing", "expected text", "give a value"),
    ("pools.0.model", "", "pools[0].model", '""', "text of 1 to 256 characters", "write text"),
    ("pools.0.model", ["x"], "pools[0].model", "a list of 1 item", "expected text", "one value"),
    ("pools.0.gpu", "H100", "pools[0].gpu", '"H100"', "expected a mapping", "type, count"),
    ("pools.0.gpu.count", 0, "pools[0].gpu.count", "0", "a whole number from 1", "from 1"),
    ("pools.0.gpu.count", "2", "pools[0].gpu.count", '"2"', "a whole number", "without quotes"),
    ("pools.0.gpu.count", 1.5, "pools[0].gpu.count", "1.5", "a whole number", "a whole number"),
    ("pools.0.gpu.count", True, "pools[0].gpu.count", "true", "a whole number", "whole number"),
    ("pools.0.gpu.usd_per_gpu_hour", 2.5, "pools[0].gpu.usd_per_gpu_hour", "2.5",
     "rounded as a float", 'put quotes around it: "2.5"'),
    ("pools.0.gpu.usd_per_gpu_hour", "$2", "pools[0].gpu.usd_per_gpu_hour", '"$2"',
     "US dollars", '"2.10"'),
    ("pools.0.gpu.usd_per_gpu_hour", "٣", "pools[0].gpu.usd_per_gpu_hour", '"٣"',
     "US dollars", '"2.10"'),
    ("pools.0.replicas", {"name": "a"}, "pools[0].replicas", "a mapping of 1 field",
     "expected a list", "'- '"),
    ("pools.0.replicas.0.url", "vllm-0:8000", "pools[0].replicas[0].url", '"vllm-0:8000"',
     "http:// or https://", "http:// or https://"),
    ("pools.0.timeouts.idle_s", 0, "pools[0].timeouts.idle_s", "0", "above 0", "to 86400"),
    ("pools.0.timeouts.idle_s", float("nan"), "pools[0].timeouts.idle_s", ".nan", "above 0", ""),
    ("server.drain_s", -1, "server.drain_s", "-1", "from 0 to 3600", "from 0"),
    ("tenants.0.keys.1.role", "operater", "tenants[0].keys[1].role", '"operater"',
     "one of caller, tenant_admin, operator", "did you mean operator?"),
    ("tenants.0.keys.1.slo_classes", ["gold"], "tenants[0].keys[1].slo_classes[0]", '"gold"',
     "one of interactive", "interactive or standard"),
    ("server.listen", "localhost", "server.listen", '"localhost"', "host:port", "host:port"),
    ("server.reflection", "yes", "server.reflection", '"yes"', "true or false", "without quotes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("at", "value", "path", "found", "message", "fix"), SHAPE, ids=[f"{c[0]}={c[1]}" for c in SHAPE]
)
def test_a_mistake_in_shape(
    at: str, value: Any, path: str, found: str, message: str, fix: str
) -> None:
    (problem,) = problems(changed((at, value)))
    assert (problem.path, problem.value) == (path, found)
    assert message in problem.message
    assert fix in problem.fix


SEMANTICS: list[tuple[str, Any, str, str, str, str]] = [
    ("pools.1.name", "qwen", "pools[1].name", '"qwen"', "same as pools[0].name", "another name"),
    ("remotes.0.name", "qwen", "remotes[0].name", '"qwen"', "same as pools[0].name", "another"),
    ("pools.0.replicas.1.name", "a", "pools[0].replicas[1].name", '"a"',
     "same as pools[0].replicas[0].name", "another name"),
    ("tenants.1.name", "search", "tenants[1].name", '"search"', "tenants[0].name", "another name"),
    ("tenants.0.keys.1.id", "one", "tenants[0].keys[1].id", '"one"', "keys[0].id", "another id"),
    ("tenants.0.keys.1.sha256", HASH, "tenants[0].keys[1].sha256",
     "5ac1... (64 characters, not shown)", "keys[0].sha256", "moegate key"),
    ("pools.1.replicas.0.url", "http://VLLM-0:8000/", "pools[1].replicas[0].url",
     '"http://VLLM-0:8000/"', "same server as pools[0].replicas[0].url", "its own address"),
    ("pools.1.replicas.0.url", "http://vllm-2:8000/v1", "pools[1].replicas[0].url",
     '"http://vllm-2:8000/v1"', "adds /v1 itself", "leave /v1 out"),
    ("remotes.0.url", "http://vllm-2:99999", "remotes[0].url", '"http://vllm-2:99999"',
     "not an address: Port out of range", "http://host:port"),
    ("remotes.0.url", "http://:8000", "remotes[0].url", '"http://:8000"', "names no host",
     "http://host:port"),
    ("remotes.0.url", "http://a\\b:8000", "remotes[0].url", r'"http://a\\b:8000"', "names no host",
     "http://host:port"),
    ("remotes.0.url", "http://a..b:8000", "remotes[0].url", '"http://a..b:8000"',
     "empty or too long part", "http://host:port"),
    ("pools.1.replicas.0.url", "http://a:0", "pools[1].replicas[0].url", '"http://a:0"',
     "nothing listens on port 0", "http://host:port"),
    ("pools.0.moe.experts", 4, "pools[0].moe.experts_per_token", "8", "more than experts, 4",
     "num_experts_per_tok"),
    ("tenants.0.keys.0.models", ["Qwen3-30B"], "tenants[0].keys[0].models[0]", '"Qwen3-30B"',
     "no pool or remote serves it", "did you mean Qwen3-30B-A3B?"),
    ("tenants.0.keys.0.remote_classes", ["eu", "us"], "tenants[0].keys[0].remote_classes[1]",
     '"us"', "no remote has it", "there are: eu"),
    ("pools.1.context_tokens", 4096, "pools[1].context_tokens", "4096",
     "pools[0].context_tokens is 32768", "the same"),
    ("server.listen", "0.0.0.0:65536", "server.listen", '"0.0.0.0:65536"', "above 65535", "65535"),
    ("pools.0.timeouts.connect_s", 200, "pools[0].timeouts.connect_s", "200.0",
     "longer than first_token_s, 120 s", "lower connect_s, or raise first_token_s"),
    ("pools.0.timeouts.first_token_s", 4000, "pools[0].timeouts.first_token_s", "4000.0",
     "longer than total_s, 3600 s", "raise total_s"),
    ("remotes.0.timeouts.idle_s", 4000, "remotes[0].timeouts.idle_s", "4000.0",
     "longer than total_s", "raise total_s"),
    ("limits.queue_bytes", 1000, "limits.queue_bytes", "1000", "largest message", "16777216"),
    ("limits.max_deadline_s", 60, "limits.default_deadline_s", "600.0",
     "above limits.max_deadline_s, 60", "raise limits.max_deadline_s"),
    ("limits.max_output_tokens", 100, "limits.default_max_output_tokens", "4096",
     "above limits.max_output_tokens, 100", "raise limits.max_output_tokens"),
    ("tenants.0.keys.0.limits", {"message_bytes": 1 << 25},
     "tenants[0].keys[0].limits.message_bytes", "33554432", "larger than any message",
     "at most 16777216"),
    ("remotes.0.api_key.env", "MOEGATE_UNSET", "remotes[0].api_key.env", '"MOEGATE_UNSET"',
     "not set", "set it where the gateway runs"),
    ("remotes.0.api_key.file", "missing.key", "remotes[0].api_key.file", '"missing.key"',
     "No such file", "missing.key hold the secret"),
    ("pools.0.replicas", [], "pools[0].replicas", "a list of 0 items", "neither replicas nor",
     "discover find them"),
    ("pools.0.discover", {"dns": "vllm", "port": 8000}, "pools[0].replicas", "a list of 2 items",
     "counted twice", "keep one"),
    ("tenants.0.keys.0.api_key", {"file": "k"}, "tenants[0].keys[0]", "both", "exactly one",
     "moegate key"),
    ("tenants.0.keys.0.sha256", ..., "tenants[0].keys[0]", "neither", "exactly one", "api_key"),
    ("server.health_listen", "0.0.0.0:65536", "server.health_listen", '"0.0.0.0:65536"',
     "above 65535", "65535"),
    ("remotes.0.api_key", {}, "remotes[0].api_key", "neither", "exactly one", "env: NAME"),
    ("pools.0.api_key", {"env": "A", "file": "b"}, "pools[0].api_key", "both", "exactly one",
     "file: PATH"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("at", "value", "path", "found", "message", "fix"),
    SEMANTICS,
    ids=[f"{c[0]}={c[1]}" for c in SEMANTICS],
)
def test_a_mistake_between_fields(
    at: str, value: Any, path: str, found: str, message: str, fix: str
) -> None:
    (problem,) = problems(changed((at, value)))
    assert (problem.path, problem.value) == (path, found)
    assert message in problem.message
    assert fix in problem.fix
    # A default that clashes is in no line of the file.
    assert problem.line is not None or problem.path not in ("server.listen", "pools[1].name")


def test_several_mistakes_are_told_together_with_their_lines() -> None:
    text = BASE.replace("name: qwen", "name: no").replace("count: 1}", "count: 0}")
    text = text.replace("https://api.example.com", "ftp://api.example.com")
    assert [(problem.path, problem.line, problem.value) for problem in problems(text)] == [
        ("pools[0].name", 3, "no"),
        ("pools[1].gpu.count", 14, "0"),
        ("remotes[0].url", 19, '"ftp://api.example.com"'),
    ]
    several = changed(("pools.1.name", "qwen"), ("tenants.1.name", "search"), ("pools.0.moe", None))
    assert {problem.path for problem in problems(several)} == {"pools[1].name", "tenants[1].name"}


def test_yes_and_no_are_what_yaml_makes_of_them_and_it_is_said() -> None:
    (problem,) = problems(BASE.replace("name: ads", "name: off"))
    assert problem.value == "off"
    assert "YAML reads off without quotes as false" in problem.message
    assert problem.fix == 'put quotes around it: "off"'
    assert check(BASE + "limits: {}\n").server.reflection is True


def test_a_price_keeps_the_digits_that_are_written() -> None:
    (problem,) = problems(BASE.replace('"2.10"', "2.10"))
    assert (problem.path, problem.value, problem.line) == (
        "pools[0].gpu.usd_per_gpu_hour", "2.10", 8,
    )  # fmt: skip
    assert problem.fix == 'put quotes around it: "2.10"'


def test_neither_pools_nor_remotes() -> None:
    (problem,) = problems("server: {}\n")
    assert problem.path == "pools"
    assert "nothing could serve" in problem.message


YAML: list[tuple[str, bytes | str, str, str, str, int | None]] = [
    ("empty", "", "nothing", "empty", "moegate check --schema", None),
    ("only a comment", "# pools\n", "nothing", "empty", "examples/moegate.yaml", None),
    ("a list", "- a\n", "a list of 1 item", "expected a mapping", "server, pools", 1),
    ("a tab", "pools:\n\t- name: a\n", "a tab", "tabs", "spaces", 2),
    ("a tab inside", "server:\n  listen: a\n \tdrain_s: 1\n", "a tab", "tabs", "spaces", 3),
    ("UTF-16", "pools: []".encode("utf-16"), "byte 0xff", "not UTF-8", "save it as UTF-8", 1),
    ("Latin-1", b"a: 1\n# \xe9\n", "byte 0xe9", "not UTF-8", "save it as UTF-8", 2),
    ("a NUL", "a: 1\nb: \x00\n", "character U+0000", "not allow", "remove it", 2),
    ("syntax", "pools: [\n", "column 1", "not YAML", "brackets", 2),
    ("two documents", "a: 1\n---\nb: 1\n", "column 1", "single document", "mend", 2),
    ("an alias", "a: &x [1]\nb: *x\n", "*x", "aliases", "write the value out", 2),
    ("a bomb", "a: &a [x]\n" + "".join(f"a{i}: &b [*a, *a]\n" for i in range(9)), "*a",
     "aliases", "write the value out", 2),
    ("deep", "a: " + "[" * 50_000, "more than 32 levels", "too deep", "examples", 1),
    ("large", "a: " + "x" * 1024 * 1024, "more than 1 MiB", "too large", "below 1 MiB", None),
    ("a tag", "pools: !!python/tuple []\n", '"python/tuple"', "not a kind", "without tags", 1),
    ("a set", "pools: !!set {a}\n", '"set"', "not a kind of value", "without tags", 1),
    ("a bad number", "pools: 0x_\n", '"int"', "not a kind of value", "plain YAML", 1),
    ("a long number", "pools: 1" + "0" * 5000, '"int"', "not a kind of value", "plain YAML", 1),
    ("a key", "? [a]\n: 1\n", "a list or mapping", "must be text", "write a name", 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found", "message", "fix", "line"), [c[1:] for c in YAML], ids=[c[0] for c in YAML]
)
def test_what_yaml_hides(
    text: bytes | str, found: str, message: str, fix: str, line: int | None
) -> None:
    problem = problems(text)[0]
    assert problem.value == found
    assert message in problem.message
    assert fix in problem.fix
    assert problem.line == line


def test_a_key_that_stands_twice_names_both_lines() -> None:
    text = BASE.replace("    context_tokens: 32768\n", "    context_tokens: 1\n    model: x\n")
    (problem,) = problems(text)
    assert (problem.path, problem.value, problem.line) == ("pools[0].model", '"model"', 11)
    assert "lines 4 and 11" in problem.message


def test_a_byte_order_mark_and_names_that_look_like_dates_are_taken() -> None:
    assert check("\ufeff" + BASE) == check(BASE)
    assert check(BASE.replace("name: ads", "name: 2026-01-02")).tenants[1].name == "2026-01-02"


SECRET = "sk-" + "s3cret" * 6


@pytest.mark.parametrize(
    "text",
    [
        changed(("remotes.0.api_key", SECRET)),
        changed(("remotes.0.api_key", {"env": SECRET})),
        changed(("remotes.0.api_key", {"env": SECRET[3:]})),
        changed(("remotes.0.api_key", {"value": SECRET})),
        changed(("remotes.0.api_key", [SECRET])),
        changed(("remotes.0.apikey", SECRET)),
        changed(("tenants.0.keys.0.key", SECRET)),
        changed(("tenants.0.keys.0.sha256", SECRET)),
        changed(("tenants.0.keys.0.sha256", int("7" * 64))),
        changed(("remotes.0.api_key.env", int("7" * 64))),
        changed(("remotes.0.url", f"https://me:{SECRET}@api.example.com")),
        changed(("remotes.0.url", f"https://api.example.com?key={SECRET}")),
        changed() + f"remotes: [{{api_key: '{SECRET}\n",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(text)
    assert SECRET[3:] not in str(caught.value)
    assert "s3crets3cret" not in str(caught.value)
    assert "77777" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file.*\n.*missing\.yaml.*\n.*readable"):
        load(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="directory"):
        load(tmp_path)


def test_secrets_are_resolved_from_both_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOEGATE_KEY", "from-env")
    (tmp_path / "key").write_bytes(b"from-file\r\n")
    assert resolve(None, tmp_path) is None
    assert resolve(SecretConfig(env="MOEGATE_KEY"), tmp_path) == "from-env"
    assert resolve(SecretConfig(file="key"), tmp_path) == "from-file"
    assert resolve(SecretConfig(file=str(tmp_path / "key")), Path("elsewhere")) == "from-file"
    (tmp_path / "moegate.yaml").write_text(changed(("remotes.0.api_key", {"file": "key"})))
    assert load(tmp_path / "moegate.yaml").remotes[0].api_key == SecretConfig(file="key")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"a\nb\n", "line break"),
        (b"a b\n", "spaces"),
        ("é".encode(), "no HTTP header"),
        (b"x" * 20_000, "more than 16384 bytes"),
    ],
)
def test_a_secret_that_no_header_could_carry(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_bytes(content)
    (problem,) = problems(changed(("pools.0.api_key", {"file": "key"})), tmp_path)
    assert (problem.path, problem.value) == ("pools[0].api_key.file", '"key"')
    assert message in problem.message
    if len(content) < 20:
        monkeypatch.setenv("MOEGATE_KEY", content.decode().removesuffix("\n"))
        (problem,) = problems(changed(("pools.0.api_key", {"env": "MOEGATE_KEY"})))
        assert (problem.path, problem.value) == ("pools[0].api_key.env", '"MOEGATE_KEY"')
        assert message in problem.message


def test_long_values_are_cut() -> None:
    assert shown("model", "x" * 500) == '"' + "x" * 80 + '..."'


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["qwen", "caller", "http://a:1", "http://[::1", "2.10", "eu"])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
PATHS = sorted({case[0] for case in (*SHAPE, *SEMANTICS)})


@given(st.lists(st.tuples(st.sampled_from(PATHS), values), min_size=1, max_size=3))
def test_any_value_anywhere_is_taken_or_told(edits: list[tuple[str, Any]]) -> None:
    try:
        text = changed(*edits)
    except (AttributeError, IndexError, KeyError, TypeError):  # the edits clash
        return
    with contextlib.suppress(ConfigError):
        check(text)


@given(st.binary(max_size=60) | st.text(max_size=60))
@example("? a\n? b")
@example("!!map x")
@example("!!bool [a]")
@example("<<: [a]")
@example("a: =")
@example("\ufffe")
@example("- 2001-99-99")
@example("\ud800")
def test_any_text_is_taken_or_told(text: bytes | str) -> None:
    with pytest.raises(ConfigError):  # nothing this short is a configuration
        check(text)


@given(st.integers(0, len(BASE)), st.text(max_size=3), st.integers(0, 3))
def test_any_slip_of_the_keyboard_is_taken_or_told(at: int, typed: str, lost: int) -> None:
    with contextlib.suppress(ConfigError):
        check(BASE[:at] + typed + BASE[at + lost :])


def test_a_file_full_of_mistakes_is_told_in_bounded_words() -> None:
    with pytest.raises(ConfigError, match="20000 problems") as caught:
        parse("\n".join(f"k{i}: 1" for i in range(20_000)), "f.yaml", Path())
    assert len(caught.value.problems) == 20_000
    assert str(caught.value).count("unknown field") == 50
    assert "and 19950 more" in str(caught.value)
