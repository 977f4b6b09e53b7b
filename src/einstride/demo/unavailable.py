"""The one error that the demo expects: something it needs is not on this machine."""


class UnavailableError(Exception):
    """Its text is one sentence for the user, with the remedy."""
