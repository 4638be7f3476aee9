"""Whether a Fernet key opens what Airflow encrypted; what was inside goes nowhere."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.engine.vault.airflow_state.sessions import Row
from holdfast.errors import ConfigError


def cannot_open(rows: Sequence[Row], fernet_key: str) -> list[str]:
    """The connections and variables of which these keys do not open something, e.g. ``connection warehouse``.

    Args:
        rows: kind, name and token, see `inventory.encrypted_rows`.
        fernet_key: one key or several, separated by commas, as Airflow takes them.

    Raises:
        ConfigError: it is no Fernet key.
    """
    from cryptography.fernet import Fernet, InvalidToken, MultiFernet

    try:
        keys = MultiFernet([Fernet(part.strip()) for part in fernet_key.split(",") if part.strip()])
    except ValueError:
        raise ConfigError(
            "this is no Fernet key",
            where="[core] fernet_key",
            expected="32 bytes in URL-safe base64; several separated by commas",
            found="something else",
        ) from None
    closed: dict[str, None] = {}
    for row in rows:
        try:
            keys.decrypt(str(row["token"]).encode())
        except InvalidToken:
            closed[f"{row['kind']} {row['name']}"] = None
    return list(closed)
