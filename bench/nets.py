"""Defines the networks and layers that `bench.training` times, in einstride and in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

BATCH = 64
RESNETS = {"resnet8 step": 1, "resnet20 step": 3}  # blocks in each of three stages
MAPS = {"16 channels 32x32": (32, 32, 16), "64 channels 8x8": (8, 8, 64)}
LAYERS = ("batch norm", "max pool 2x2", "max pool 3x3 stride 2", "average pool 2x2")
CASES = [*RESNETS, *(f"{layer}, {size}" for layer in LAYERS for size in MAPS)]

Step = Callable[[], Any]


def ours(case: str, layout: str) -> Step:
    """Return a call of einstride that does one step, or one layer forward and backward."""
    from einstride import nn
    from einstride.arrays.backends import by_name

    rng = np.random.default_rng(0)
    if case in RESNETS:
        model = nn.Model(_resnet(RESNETS[case]), (32, 32, 3))
        x, t = rng.standard_normal((BATCH, 32, 32, 3)), rng.integers(0, 10, BATCH)
        x, loss, optimiser = x.astype("float32"), nn.CrossEntropy(), nn.Momentum(0.01)
        return lambda: model.step(x, t, loss, optimiser)
    name, size = case.split(", ")
    layer = {
        "batch norm": nn.BatchNorm,
        "max pool 2x2": lambda: nn.MaxPool(2),
        "max pool 3x3 stride 2": lambda: nn.MaxPool(3, stride=2, padding=1),
        "average pool 2x2": lambda: nn.AvgPool(2),
    }[name]()
    nn.Model(nn.Sequential(layer), MAPS[size])
    run = nn.Run(by_name("bench", "numpy"), True, True)
    x = rng.standard_normal((BATCH, *MAPS[size])).astype("float32")
    gy = rng.standard_normal(layer.forward(x, run)[0].shape).astype("float32")

    def both() -> None:
        _, kept = layer.forward(x, run)
        layer.backward(gy, kept, run)

    return both


def _resnet(blocks: int) -> Any:
    from einstride import nn

    def block(channels: int, stride: int, change: bool) -> Any:
        body = nn.Sequential(
            nn.Conv(channels, 3, stride=stride, padding=1, bias=False), nn.BatchNorm(), nn.ReLU(),
            nn.Conv(channels, 3, padding=1, bias=False), nn.BatchNorm(),
        )  # fmt: skip
        way = nn.Sequential(nn.Conv(channels, 1, stride=stride, bias=False), nn.BatchNorm())
        return nn.Sequential(nn.Residual(body, way if change else None), nn.ReLU())

    layers = [nn.Conv(16, 3, padding=1, bias=False), nn.BatchNorm(), nn.ReLU()]
    for stage, channels in enumerate((16, 32, 64)):
        for i in range(blocks):
            change = stage > 0 and i == 0
            layers.append(block(channels, 2 if change else 1, change))
    return nn.Sequential(*layers, nn.GlobalAvgPool(), nn.Dense(10))


def theirs(case: str, layout: str) -> Step:
    """Return a call of PyTorch that does the same, in one of its two memory formats."""
    import torch
    from torch import nn

    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    if case in RESNETS:
        model = _torch_resnet(RESNETS[case]).to(memory_format=memory)
        x = torch.randn(BATCH, 3, 32, 32).to(memory_format=memory)
        t, loss = torch.randint(0, 10, (BATCH,)), nn.CrossEntropyLoss()
        optimiser = torch.optim.SGD(model.parameters(), 0.01, 0.9)

        def step() -> float:
            optimiser.zero_grad()
            value = loss(model(x), t)
            value.backward()
            optimiser.step()
            return float(value.detach())

        return step
    name, size = case.split(", ")
    height, width, channels = MAPS[size]
    layer = {
        "batch norm": lambda: nn.BatchNorm2d(channels),
        "max pool 2x2": lambda: nn.MaxPool2d(2),
        "max pool 3x3 stride 2": lambda: nn.MaxPool2d(3, 2, 1),
        "average pool 2x2": lambda: nn.AvgPool2d(2),
    }[name]()
    x = torch.randn(BATCH, channels, height, width).to(memory_format=memory).requires_grad_()
    gy = torch.randn(layer(x).shape).to(memory_format=memory)
    wanted = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x), wanted, gy)


def _torch_resnet(blocks: int) -> Any:
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inner: int, channels: int, stride: int, change: bool) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(inner, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels),
            )  # fmt: skip
            way = [nn.Conv2d(inner, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)]
            self.way = nn.Sequential(*way) if change else nn.Identity()

        def forward(self, x: Any) -> Any:
            return torch.relu_(self.body(x) + self.way(x))

    layers: list[Any] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16),
                         nn.ReLU(inplace=True)]  # fmt: skip
    inner = 16
    for stage, channels in enumerate((16, 32, 64)):
        for i in range(blocks):
            change = stage > 0 and i == 0
            layers.append(Block(inner, channels, 2 if change else 1, change))
            inner = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def parameters(blocks: int) -> int:
    """Count the parameters of the network, which are equal in number on both sides."""
    from einstride import nn

    model = nn.Model(_resnet(blocks), (32, 32, 3))
    return sum(math.prod(p.shape) for p in model.parameters.values())
