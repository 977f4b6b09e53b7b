"""Give back the memory of everything that calls have cached."""

from __future__ import annotations

from einstride.support import caches


def clear_caches() -> int:
    """Drop what earlier calls have cached: plans, geometries, offset tables and Fourier matrices.

    Results do not change; the next call of each kind plans again. Every cache has a bound, so no
    program must call this: it gives memory back early. Compiled kernels stay, as do the filters
    that a `Conv` holds. ``python -m einstride info`` lists all caches with their bounds.

    Returns
    -------
    int
        The bytes of the tables and matrices that were dropped; plans and geometries are not
        counted.

    Raises
    ------
    TypeError
        If an argument is given: caches are emptied together.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> x, f = np.ones((1, 9, 9, 4)), np.ones((3, 3, 4, 8))
    >>> before = es.conv(x, f)
    >>> dropped = es.clear_caches()
    >>> bool((es.conv(x, f) == before).all())
    True
    """
    dropped = caches.nbytes("results")
    caches.clear("results")
    return dropped
