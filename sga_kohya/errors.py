"""The one error a user can cause: it names the value and the remedy, and doors print it without a traceback."""


class SgaError(ValueError):
    """A setting, file or host that cannot work; the message says which and what to do about it."""
