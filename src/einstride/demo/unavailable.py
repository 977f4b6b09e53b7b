"""The error for packages and devices that the demo needs and this machine does not have."""


class UnavailableError(Exception):
    """A package or device is missing; the text is one sentence for the user, with the remedy."""
