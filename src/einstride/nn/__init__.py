"""Build and train neural networks on plain arrays of any library, in small readable modules.

A network is written as layers, built for an input shape, and trained:

>>> import numpy as np
>>> from einstride import nn
>>> net = nn.Sequential(
...     nn.Conv(8, 3, padding="same"), nn.BatchNorm(), nn.ReLU(), nn.MaxPool(2),
...     nn.Flatten(), nn.Dense(10),
... )
>>> model = nn.Model(net, input_shape=(8, 8, 1))
>>> model(np.zeros((5, 8, 8, 1), "float32")).shape
(5, 10)

Channels come last by default. The same model trains on NumPy, CuPy and array-API libraries
(``library=``, `Model.to`); random numbers are drawn on the host, the same for all of them.

What may enter: what a network needs besides convolution, which `einstride.api` computes.
Start with `layer`, the base class of all layers; then `model`, and `training.fitting`, the
training loop.
"""

from einstride.nn.initialisers import glorot, he, zeros
from einstride.nn.layer import Layer, Maker, Run
from einstride.nn.layers.activations import GELU, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from einstride.nn.layers.compose import Residual, Sequential
from einstride.nn.layers.conv import Conv, ConvTranspose
from einstride.nn.layers.dense import Dense
from einstride.nn.layers.dropout import Dropout
from einstride.nn.layers.global_pool import GlobalAvgPool
from einstride.nn.layers.norm import BatchNorm
from einstride.nn.layers.pool import AvgPool, MaxPool
from einstride.nn.layers.shape import Flatten, Reshape
from einstride.nn.model import Model
from einstride.nn.training.batches import Batches
from einstride.nn.training.history import History
from einstride.nn.training.losses import L2, BinaryCrossEntropy, CrossEntropy, Loss
from einstride.nn.training.metrics import accuracy, binary_accuracy, top_n
from einstride.nn.training.optimiser import Optimiser
from einstride.nn.training.optimisers import SGD, AdaGrad, Adam, AdamW, Momentum, RMSProp

__all__ = [
    "GELU",
    "L2",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "AvgPool",
    "BatchNorm",
    "Batches",
    "BinaryCrossEntropy",
    "Conv",
    "ConvTranspose",
    "CrossEntropy",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "History",
    "Layer",
    "LeakyReLU",
    "Loss",
    "Maker",
    "MaxPool",
    "Model",
    "Momentum",
    "Optimiser",
    "RMSProp",
    "ReLU",
    "Reshape",
    "Residual",
    "Run",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "accuracy",
    "binary_accuracy",
    "glorot",
    "he",
    "top_n",
    "zeros",
]
