"""The parts `server`, `cluster` and `console` of the configuration: how the gateway listens, drains
and probes, with whom it shares a scheduler, and how people sign in to its pages."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.config.values import HostPort, KeyRole, Name, Seconds, SecretConfig, Url

Origin = Annotated[
    str,
    Meta(
        pattern=r"^(\*|https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?)$",
        description="Scheme, host in lower case and port, without a path; or *.",
    ),
]


ClaimName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        description="Name of a claim. Dots lead into objects: realm_access.roles.",
    ),
]
ShortText = Annotated[str, Meta(min_length=1, max_length=256)]
Scope = Annotated[
    str,
    Meta(
        pattern=r"^[!#-\[\]-~]{1,128}$",
        description="Visible ASCII without space, quotation mark and backslash.",
    ),
]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part: frozen, unknown fields refused."""


class TlsConfig(_Part, frozen=True, kw_only=True):
    """TLS of the ports of gRPC, HTTP and the console. Files are PEM, relative to the folder of the
    configuration file."""

    cert: Annotated[str, Meta(min_length=1)]
    """Certificate chain of the server."""
    key: Annotated[str, Meta(min_length=1)]
    """Its private key, not encrypted."""
    client_ca: Annotated[str, Meta(min_length=1)] | None = None
    """Authority that signs the clients' certificates (mTLS); absent: clients need none."""
    http2: bool = True
    """Whether the HTTP port offers HTTP/2, by ALPN, beside HTTP/1.1. It costs the gateway more CPU
    for each request (docs/clients.md)."""


class ServerConfig(_Part, frozen=True, kw_only=True):
    """How the gateway listens, drains and probes."""

    listen: HostPort = "127.0.0.1:50051"
    """Address to listen on; port 0 takes a free one."""
    tls: TlsConfig | None = None
    """TLS; absent: plain text, for a mesh or a proxy that encrypts."""
    http_listen: HostPort | None = None
    """Address of the HTTP port, which speaks the dialects of OpenAI and Anthropic; absent: there is
    none."""
    cors_origins: tuple[Origin, ...] = ()
    """Origins whose pages may call the HTTP port from a browser, such as https://app.example.com,
    or * for all; empty: none may."""
    console_listen: HostPort | None = None
    """Address of the console, web pages for people (docs/console.md); absent: there is none."""
    ping_s: Seconds = 15.0
    """Silence after which a stream of the HTTP port is sent a ping. A stream that has not begun
    begins with it: an error after that comes within the stream, no longer as a status."""
    health_listen: HostPort | None = None
    """Second address, for health checks only and in plain text: the gRPC probes of Kubernetes
    support neither TLS nor client certificates."""
    scaler_listen: HostPort | None = None
    """Address of KEDA's external scaler, in plain text and without keys: it tells how many replicas
    a pool should have, by money (docs/overflow.md). Absent: there is none."""
    drain_delay_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    """On SIGTERM: how long new calls are still accepted after health has become NOT_SERVING, so
    that load balancers notice it."""
    drain_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0
    """On SIGTERM, after `drain_delay_s`: how long running streams may take to finish."""
    blocked_write_s: Seconds = 30.0
    """How long a client may leave one write of its stream unread, or hold up an upstream in total,
    before the stream is ended."""
    watch_files_s: Seconds | None = None
    """Time between two looks at the configuration file and the files that it names: secrets,
    certificates, price catalogs. What has changed is put into force, as on SIGHUP. Absent: nobody
    looks."""
    keepalive_s: Seconds = 30.0
    """Idle time after which a connection is probed."""
    keepalive_timeout_s: Seconds = 10.0
    """How long the answer to a probe may take."""
    max_connection_age_s: Seconds = 600.0
    """Age at which a connection takes no new calls, so that clients spread over new gateways."""
    max_connection_age_grace_s: Seconds = 3600.0
    """How long the streams of such a connection may go on. Over HTTP/2 on the HTTP port: how long
    it may take new ones while it is never idle."""
    max_connection_idle_s: Seconds = 300.0
    """How long a connection without RPCs stays open. Clients connect again by themselves."""
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    """Most connections to `listen`; further ones are closed at once. Fewer if the process may not
    open so many files."""
    max_streams_per_connection: Annotated[int, Meta(ge=1, le=1_000_000)] = 2048
    """Most RPCs at once of one connection. Clients know it and let further ones wait."""
    handshake_timeout_s: Seconds = 10.0
    """How long a new connection may take for TLS and the first HTTP/2 frames."""
    client_ping_interval_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    """Shortest time between two pings of a client that no answer separates: its keepalive should be
    longer. A ping before that is a strike."""
    client_ping_strikes: Annotated[int, Meta(ge=1, le=1000)] = 10
    """Strikes after which the connection is closed. Each message that is sent to the client resets
    them."""
    probe_interval_s: Seconds = 1.0
    """Time between two reads of the metrics of an engine."""
    longest_hold_s: Annotated[float, Meta(ge=0, le=1)] = 0.05
    """Longest time for which output is held under load, so that one message carries several tokens.
    The first token is never held. 0: every token goes out as it comes, whatever it costs."""
    reflection: bool = True
    """Whether gRPC server reflection is on."""


class ClusterTlsConfig(_Part, frozen=True, kw_only=True):
    """TLS between the gateways of a cluster: each shows a certificate and checks that of the other.
    Files are PEM, relative to the folder of the configuration file, and may be renewed while the
    gateway serves."""

    cert: Annotated[str, Meta(min_length=1)]
    """Certificate chain of this gateway, for server and client."""
    key: Annotated[str, Meta(min_length=1)]
    """Its private key, not encrypted."""
    ca: Annotated[str, Meta(min_length=1)]
    """Authority that signs the certificates of all gateways of the cluster."""
    member: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$",
            description="A DNS name in lower case.",
        ),
    ] = "moegate"
    """DNS name (subjectAltName) that every certificate of the cluster carries, so that other
    certificates of the same authority do not let in."""


class ClusterConfig(_Part, frozen=True, kw_only=True):
    """Several gateways on one PostgreSQL that have one scheduler together: one of them leads, the
    others are its fronts and stand by."""

    name: Name = "moegate"
    """Name of the cluster, the same in all its gateways, unique in the database."""
    listen: HostPort = "0.0.0.0:50061"
    """Address at which the leader listens for the other gateways; it takes the next port, too, for
    the services of usage and administration."""
    advertise: (
        Annotated[
            str,
            Meta(
                pattern=r"^(\[[0-9a-fA-F:.]+\]|[^:\s/]+)$",
                description="Host name or IP address, without a port.",
            ),
        ]
        | None
    ) = None
    """Host at which the other gateways reach this one; absent: the address from which it reaches
    the database."""
    lease_s: Annotated[float, Meta(ge=1, le=60)] = 3.0
    """How long the leader leads without a renewal of its lease while the database is slow or
    unknown; half of it, but not below 1.5 s, while it answers promptly. After a fault that closes
    no connection (a stopped process, a cut network), the next one leads after that time. A database
    that answers more slowly ends the leader's term."""
    tls: ClusterTlsConfig
    """TLS between the gateways."""


class SignInRuleConfig(_Part, frozen=True, kw_only=True):
    """What people with a claim may do: either `key_id`, or `role` and `tenant`."""

    claim: ClaimName = "groups"
    """Claim that is looked at. `email` counts only if the provider says that it is verified."""
    value: ShortText
    """Value that the claim has, or holds among others."""
    key_id: Name | None = None
    """Key whose rights and limits they have, as long as it exists."""
    role: KeyRole | None = None
    """Role that they have."""
    tenant: Name | None = None
    """Tenant that they belong to."""


class OidcConfig(_Part, frozen=True, kw_only=True):
    """An OpenID Connect provider. The gateway is a client of it with the redirect URI
    `public_url`/sign-in/return."""

    issuer: Url
    """Address of the provider, exactly as its tokens name it. Must be https, but for a loopback
    address."""
    client_id: ShortText
    """Id of the gateway at the provider."""
    client_secret: SecretConfig | None = None
    """Secret of the gateway at the provider; absent: it is a public client, with PKCE alone."""
    name: Annotated[str, Meta(min_length=1, max_length=64)] = "single sign-on"
    """How the sign-in page calls the provider."""
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=16)] = (
        "openid",
        "email",
        "profile",
    )
    """What the gateway asks to know, `openid` among it."""
    subject_claim: ClaimName = "email"
    """Claim that names a person in pages and in the audit log. `email` counts only if it is
    verified; else, and where the claim is absent, it is `sub`."""
    rules: Annotated[tuple[SignInRuleConfig, ...], Meta(max_length=1000)]
    """The first rule that fits a person holds. Whom none fits may not sign in."""
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0
    """Longest time of one request to the provider."""


class ConsoleConfig(_Part, frozen=True, kw_only=True):
    """Signing in to the console."""

    session_secret: SecretConfig | None = None
    """Secret that sessions are encrypted with, at least 32 characters; the same for all gateways
    that share users. Absent: made at random at each start, so that a restart ends all sessions."""
    session_s: Annotated[float, Meta(ge=60, le=604_800)] = 28_800.0
    """How long a session lasts, seconds. The end of its key ends it before."""
    public_url: Url | None = None
    """Address of the console in browsers, where a proxy stands before it; needed for `oidc`. With
    https, cookies go over TLS only."""
    oidc: OidcConfig | None = None
    """Provider by which people can sign in; absent: they sign in with an API key."""
