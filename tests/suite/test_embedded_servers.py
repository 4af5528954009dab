"""The embedded PostgreSQL and Valkey, as the suite starts them."""

import psycopg
import pytest
import redis

from interlock_suite.postgres import refuse_without_durability
from tests.suite_fixtures import PostgresServer, ValkeyServer


def test_the_owner_makes_tables_and_the_service_cannot(postgres_server: PostgresServer) -> None:
    database = postgres_server.make_database("registry")
    with psycopg.connect(database.owner_url) as owner:
        owner.execute("CREATE TABLE agents (id int)")
        owner.execute("GRANT SELECT, INSERT ON agents TO registry")
    with psycopg.connect(database.service_url) as service:
        service.execute("INSERT INTO agents VALUES (1)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            service.execute("CREATE TABLE more (id int)")


def test_a_service_cannot_connect_to_another_services_database(postgres_server: PostgresServer) -> None:
    audit = postgres_server.make_database("audit")
    gateway = postgres_server.make_database("gateway")
    stolen = gateway.service_url.replace(gateway.name, audit.name)
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(stolen)


def test_postgres_refuses_a_wrong_password(postgres_server: PostgresServer) -> None:
    database = postgres_server.make_database("audit")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(database.service_url.replace("service-of-a-test", "guess"))


def test_a_committed_row_survives_a_crash_of_postgres(postgres_server: PostgresServer) -> None:
    database = postgres_server.make_database("audit")
    with psycopg.connect(database.owner_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    postgres_server.kill()
    postgres_server.start()
    with psycopg.connect(database.owner_url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)


def test_the_embedded_postgres_is_durable(postgres_server: PostgresServer) -> None:
    refuse_without_durability(postgres_server.url)


def test_valkey_keeps_its_data_over_a_restart(valkey_server: ValkeyServer) -> None:
    with redis.Redis.from_url(valkey_server.url) as client:
        client.set("nudge", "kept")
    valkey_server.restart()
    with redis.Redis.from_url(valkey_server.url) as client:
        assert client.get("nudge") == b"kept"


def test_valkey_refuses_a_client_without_the_password(valkey_server: ValkeyServer) -> None:
    path = valkey_server.url.partition("@")[2]
    with redis.Redis.from_url(f"unix://{path}") as client, pytest.raises(redis.AuthenticationError):
        client.ping()
