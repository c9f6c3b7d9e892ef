"""What ``site.database_url`` becomes for Django."""

from __future__ import annotations

from drakkar_site.database import CONNECT_SECONDS, UNACKNOWLEDGED_SECONDS, database

BOUNDED = {
    "connect_timeout": CONNECT_SECONDS,
    "tcp_user_timeout": UNACKNOWLEDGED_SECONDS * 1000,
}


def test_a_plain_url_gives_each_part_decoded() -> None:
    found = database("postgresql://mara:p%40ss@db.example/history")
    named = {name: found[name] for name in ("NAME", "USER", "PASSWORD", "HOST", "PORT")}
    assert named == {
        "NAME": "history",
        "USER": "mara",
        "PASSWORD": "p@ss",
        "HOST": "db.example",
        "PORT": "5432",
    }
    assert found["OPTIONS"] == BOUNDED


def test_options_of_the_client_are_passed_on() -> None:
    query = "sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem&connect_timeout=2"
    options = database(f"postgresql://db.example:6432/history?{query}")["OPTIONS"]
    asked = {"sslmode": "verify-full", "sslrootcert": "/etc/ca.pem", "connect_timeout": "2"}
    assert options == {**BOUNDED, **asked}
