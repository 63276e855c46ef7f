"""The suite of integration/test_fleet_breaker.py on three primaries."""

from __future__ import annotations

from tests.integration.test_fleet_breaker import *  # noqa: F403  the same tests again
