"""The suite of integration/test_cache_protocol.py where a script may only touch the slot of its keys."""

from __future__ import annotations

from tests.integration.test_cache_protocol import *  # noqa: F403  the same tests again
