"""The web console: static files that the replica serves itself, and the policy under which a browser runs them."""

from __future__ import annotations

from app.console.assets import Asset, Console, load

__all__ = ["Asset", "Console", "load"]
