"""Tables of keys and tenants that are made at run time, and of the audit log."""

ACCESS_TABLES = (
    """CREATE TABLE api_key (
        key_id TEXT NOT NULL PRIMARY KEY,
        tenant TEXT NOT NULL,
        settings TEXT NOT NULL,
        expires_unix_us BIGINT,
        created_unix_us BIGINT NOT NULL,
        created_by TEXT NOT NULL,
        rotated_unix_us BIGINT,
        revoked_unix_us BIGINT
    )""",
    # Hashes, and the beginnings of the secrets.
    """CREATE TABLE api_secret (
        sha256 TEXT NOT NULL PRIMARY KEY,
        key_id TEXT NOT NULL,
        prefix TEXT NOT NULL,
        created_unix_us BIGINT NOT NULL,
        until_unix_us BIGINT
    )""",
    "CREATE INDEX api_secret_by_key ON api_secret (key_id)",
    """CREATE TABLE tenant (
        name TEXT NOT NULL PRIMARY KEY,
        weight DOUBLE PRECISION NOT NULL,
        rpcs BIGINT
    )""",
    """CREATE TABLE audit (
        event_id BIGINT NOT NULL PRIMARY KEY,
        at_unix_us BIGINT NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        tenant TEXT NOT NULL,
        target TEXT NOT NULL,
        before_json TEXT NOT NULL,
        after_json TEXT NOT NULL
    )""",
    # One row, which every change of the tables above locks.
    """CREATE TABLE access (
        one BIGINT NOT NULL PRIMARY KEY,
        version BIGINT NOT NULL,
        events BIGINT NOT NULL
    )""",
    "INSERT INTO access (one, version, events) VALUES (0, 0, 0)",
)
