"""Valkey, PostgreSQL and replicas as processes of this machine: for the demo, the tests and development."""
