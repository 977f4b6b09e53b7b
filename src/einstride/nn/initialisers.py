"""Initial values of parameters: functions of (generator, shape, fan_in, fan_out)."""

from __future__ import annotations

import math

import numpy as np

from einstride.nn.arrays import HostArray, Shape


def he(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> HostArray:
    """Draw normal numbers of variance 2 / fan_in, which keeps the variance through ReLU layers.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the random numbers.
    shape : tuple of int
        The shape of the parameter.
    fan_in : int
        Number of products in each sum of the forward pass.
    fan_out : int
        Number of products in each sum of the backward pass; not used.

    Returns
    -------
    numpy.ndarray
        Float64 numbers (He et al., 2015, equation 10).
    """
    return rng.standard_normal(shape) * math.sqrt(2 / max(fan_in, 1))


def glorot(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> HostArray:
    """Draw uniform numbers of variance 2 / (fan_in + fan_out), for tanh and sigmoid layers.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the random numbers.
    shape : tuple of int
        The shape of the parameter.
    fan_in, fan_out : int
        Number of products in each sum of the forward and the backward pass.

    Returns
    -------
    numpy.ndarray
        Float64 numbers (Glorot and Bengio, 2010, equation 16).
    """
    limit = math.sqrt(6 / max(fan_in + fan_out, 1))
    return rng.uniform(-limit, limit, shape)


def zeros(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> HostArray:
    """Return zeros, for a bias or the last layer of a residual branch.

    Parameters
    ----------
    rng : numpy.random.Generator
        Not used.
    shape : tuple of int
        The shape of the parameter.
    fan_in, fan_out : int
        Not used.

    Returns
    -------
    numpy.ndarray
        Float64 zeros.
    """
    return np.zeros(shape)
