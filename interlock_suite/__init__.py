"""The embedded default: PostgreSQL, Valkey, the services and a worker under one supervisor."""
