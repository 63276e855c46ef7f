"""The suite of integration/test_queue.py on three primaries."""

from __future__ import annotations

from tests.integration.test_queue import *  # noqa: F403  the same tests again
