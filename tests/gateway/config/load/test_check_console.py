"""Checks of `console`: what could not work, or let in whom it should not, is told at the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load.file import parse
from gateway.config.problems import ConfigError

BASE = """\
remotes: [{name: far, remote_class: eu, model: moe, url: http://127.0.0.1:9}]
tenants: [{name: ops, keys: [{id: ann, sha256: %s}]}]
""" % ("ab" * 32)
RULES = "rules: [{value: platform, role: operator, tenant: ops}]"


def parsed(console: str) -> None:
    parse(BASE + console, "moegate.yaml", Path())


@pytest.mark.parametrize(
    "console",
    [
        "console: {session_s: 3600}",
        "console: {public_url: 'https://console.example', oidc: {issuer: 'https://idp.example/a',"
        f" client_id: moegate, {RULES}}}}}",
        "console: {public_url: 'http://127.0.0.1:8', oidc: {issuer: 'http://localhost:9',"
        " client_id: moegate, rules: [{claim: email, value: a@b.example, key_id: ann}]}}",
    ],
)
def test_these_work(console: str) -> None:
    parsed(console)


@pytest.mark.parametrize(
    ("console", "problem"),
    [
        ("public_url: 'https://a.example/console'", "console.public_url"),
        ("session_s: 1", "console.session_s"),
        ("session_secret: {env: NOT_SET_ANYWHERE}", "console.session_secret"),
        (f"oidc: {{issuer: 'https://idp.example', client_id: m, {RULES}}}", "console.public_url"),
        (f"oidc: {{issuer: 'http://idp.example', client_id: m, {RULES}}}", "console.oidc.issuer"),
        (
            f"oidc: {{issuer: 'https://idp.example', client_id: m, scopes: [email], {RULES}}}",
            "console.oidc.scopes",
        ),
        (
            "oidc: {issuer: 'https://idp.example', client_id: m, rules: []}",
            "console.oidc.rules",
        ),
    ],
)
def test_what_cannot_work_is_told(console: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(f"console: {{{console}}}")
    assert any(each.path.startswith(problem) for each in caught.value.problems)


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("{value: a}", "console.oidc.rules[0]"),
        ("{value: a, role: operator}", "console.oidc.rules[0]"),
        ("{value: a, tenant: ops}", "console.oidc.rules[0]"),
        ("{value: a, key_id: ann, role: operator, tenant: ops}", "console.oidc.rules[0]"),
        ("{value: a, key_id: ann, tenant: ops}", "console.oidc.rules[0]"),
        ("{value: a, key_id: bob}", "console.oidc.rules[0].key_id"),
        ("{value: a, role: operator, tenant: none}", "console.oidc.rules[0].tenant"),
    ],
)
def test_a_rule_gives_rights_in_one_way(rule: str, path: str) -> None:
    console = (
        "console: {public_url: 'https://a.example', oidc: {issuer: 'https://idp.example',"
        f" client_id: m, rules: [{rule}]}}}}"
    )
    with pytest.raises(ConfigError) as caught:
        parsed(console)
    assert path in [each.path for each in caught.value.problems]


def test_a_short_secret_is_refused_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("too-short")
    with pytest.raises(ConfigError) as caught:
        parse(BASE + "console: {session_secret: {file: secret}}", "moegate.yaml", tmp_path)
    assert [each.path for each in caught.value.problems] == ["console.session_secret"]
    assert "too-short" not in str(caught.value)
