"""What goes wrong when a server is started or stopped."""

from app.sandbox.processes import ProcessError


class EmbeddedServerError(ProcessError):
    """An embedded server cannot be had here. The message says why and how to mend it."""
