"""The suite of integration/test_pacing.py on three primaries."""

from __future__ import annotations

from tests.integration.test_pacing import *  # noqa: F403  the same tests again
