"""Defines the networks of PyTorch that `bench.torch_models` times, with random weights.

Layers and sizes are those of the papers and of torchvision; its package is not needed. The U-Net is
half as wide as the paper's, and volumes are half as large, so that all networks take minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

Layers = nn.Sequential


class Network(NamedTuple):
    """Hold how a network is made, and the shape of one example for it."""

    make: Callable[[], nn.Module]
    example: tuple[int, ...]


class Residual(nn.Module):
    """Add the input, or a projection of it, to the result of some layers."""

    def __init__(self, body: nn.Module, way: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.way = body, way or nn.Identity()

    def forward(self, x: Any) -> Any:
        return self.body(x) + self.way(x)


def _normalised(
    rank: int, c: int, d: int, k: int = 1, s: int = 1, act: Any = None, **more: Any
) -> Any:
    """A convolution that keeps the size but for its stride, a batch norm, an activation."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1]
    layers = [conv(c, d, k, s, k // 2, bias=False, **more), norm(d)]
    return Layers(*layers, *([] if act is None else [act()]))


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)


def resnet50() -> nn.Module:
    """ResNet-50 (He et al. 2015), with the stride in the 3x3 layer as in torchvision."""
    layers: list[Any] = [_normalised(2, 3, 64, 7, 2, _relu), nn.MaxPool2d(3, 2, 1)]
    c = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner, d = 64 << stage, 256 << stage
        for i in range(blocks):
            s = 2 if stage and not i else 1
            body = Layers(
                _normalised(2, c, inner, act=_relu), _normalised(2, inner, inner, 3, s, _relu),
                _normalised(2, inner, d),
            )  # fmt: skip
            layers += [Residual(body, None if i else _normalised(2, c, d, 1, s)), _relu()]
            c = d
    return Layers(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 1000))


class SqueezeExcitation(nn.Module):
    """Scale each channel by a function of all channels' means."""

    def __init__(self, c: int, inner: int) -> None:
        super().__init__()
        self.body = Layers(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, inner, 1), nn.SiLU(inplace=True),
            nn.Conv2d(inner, c, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        return self.body(x) * x


def _inverted(c: int, d: int, t: int, k: int, s: int, act: Any, squeezed: bool) -> nn.Module:
    """A block of MobileNetV2 or EfficientNet: expand, depthwise, project."""
    inner = c * t
    layers = [_normalised(2, c, inner, act=act)] if t > 1 else []
    layers.append(_normalised(2, inner, inner, k, s, act, groups=inner))
    if squeezed:
        layers.append(SqueezeExcitation(inner, max(1, c // 4)))
    body = Layers(*layers, _normalised(2, inner, d))
    return Residual(body) if s == 1 and c == d else body


def _inverted_network(blocks: Any, act: Any, squeezed: bool) -> nn.Module:
    layers, c = [_normalised(2, 3, 32, 3, 2, act)], 32
    for t, d, n, s, k in blocks:
        for i in range(n):
            layers.append(_inverted(c, d, t, k, 1 if i else s, act, squeezed))
            c = d
    head = [_normalised(2, c, 1280, act=act), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Layers(*layers, *head, nn.Linear(1280, 1000))


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018)."""
    blocks = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3),
              (6, 96, 3, 1, 3), (6, 160, 3, 2, 3), (6, 320, 1, 1, 3))  # fmt: skip
    return _inverted_network(blocks, lambda: nn.ReLU6(inplace=True), False)


def efficientnet_b0() -> nn.Module:
    """EfficientNet-B0 (Tan and Le 2019)."""
    blocks = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
              (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip
    return _inverted_network(blocks, lambda: nn.SiLU(inplace=True), True)


class Permute(nn.Module):
    """Permute axes."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Any) -> Any:
        return x.permute(self.order)


class Scale(nn.Module):
    """Multiply each channel by a parameter."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((c, 1, 1), 1e-6))

    def forward(self, x: Any) -> Any:
        return x * self.weight


def convnext_t() -> nn.Module:
    """ConvNeXt-T (Liu et al. 2022)."""

    def norm(c: int) -> Any:
        return Layers(Permute(0, 2, 3, 1), nn.LayerNorm(c, 1e-6), Permute(0, 3, 1, 2))

    layers, c = [nn.Conv2d(3, 96, 4, 4), norm(96)], 96
    for stage, blocks in enumerate((3, 3, 9, 3)):
        if stage:
            layers += [norm(c), nn.Conv2d(c, 2 * c, 2, 2)]
            c *= 2
        for _ in range(blocks):
            body = Layers(
                nn.Conv2d(c, c, 7, padding=3, groups=c), Permute(0, 2, 3, 1),
                nn.LayerNorm(c, 1e-6), nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c),
                Permute(0, 3, 1, 2), Scale(c),
            )  # fmt: skip
            layers.append(Residual(body))
    return Layers(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(c), nn.Linear(c, 1000)
    )


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) with padding, batch norms and a width of its own."""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        widths = [width << i for i in range(depth + 1)]

        def double(c: int, d: int) -> Any:
            return Layers(_normalised(2, c, d, 3, 1, _relu), _normalised(2, d, d, 3, 1, _relu))

        self.down = nn.ModuleList(map(double, [3, *widths[:-1]], widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, 2) for c in widths[-2::-1])
        self.merge = nn.ModuleList(double(2 * c, c) for c in widths[-2::-1])
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Any) -> Any:
        kept = []
        for layer in self.down:
            x = layer(functional.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        for up, merge, before in zip(self.up, self.merge, kept[-2::-1], strict=True):
            x = merge(torch.cat([before, up(x)], 1))
        return self.head(x)


def resnet3d_18() -> nn.Module:
    """A 3-D ResNet of 18 layers (Tran et al. 2018)."""
    first = [nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False), nn.BatchNorm3d(64)]
    layers, c = [*first, _relu()], 64
    for stage in range(4):
        d = 64 << stage
        for i in range(2):
            s = 2 if stage and not i else 1
            body = Layers(_normalised(3, c, d, 3, s, _relu), _normalised(3, d, d, 3))
            layers += [Residual(body, _normalised(3, c, d, 1, s) if s > 1 else None), _relu()]
            c = d
    return Layers(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(c, 400))


class WaveNet(nn.Module):
    """WaveNet (van den Oord et al. 2016): causal, dilated, gated layers with skips."""

    def __init__(
        self, width: int = 64, skips: int = 128, stacks: int = 2, layers: int = 10
    ) -> None:
        super().__init__()
        self.dilations = [1 << i for i in range(layers)] * stacks
        self.first = nn.Conv1d(1, width, 1)
        self.gated = nn.ModuleList(
            nn.Conv1d(width, 2 * width, 2, dilation=d) for d in self.dilations
        )
        self.back = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in self.dilations)
        self.skip = nn.ModuleList(nn.Conv1d(width, skips, 1) for _ in self.dilations)
        head = [nn.ReLU(), nn.Conv1d(skips, skips, 1), nn.ReLU(), nn.Conv1d(skips, 256, 1)]
        self.head = Layers(*head)

    def forward(self, x: Any) -> Any:
        x, total = self.first(x), 0
        for d, gated, back, skip in zip(
            self.dilations, self.gated, self.back, self.skip, strict=True
        ):
            values, gate = gated(functional.pad(x, (d, 0))).chunk(2, 1)
            y = torch.tanh(values) * torch.sigmoid(gate)
            total, x = total + skip(y), x + back(y)
        return self.head(total)


class Attention(nn.Module):
    """Self-attention over (B, T, C)."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(c, heads, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.attention(x, x, x, need_weights=False)[0]


def conformer(c: int = 256) -> nn.Module:
    """A block of the Conformer (Gulati et al. 2020) over (B, T, C)."""

    class Half(nn.Module):
        def forward(self, x: Any) -> Any:
            return x / 2

    def feed_forward() -> nn.Module:
        layers = [nn.LayerNorm(c), nn.Linear(c, 4 * c), nn.SiLU(), nn.Linear(4 * c, c), Half()]
        return Residual(Layers(*layers))

    module = Layers(
        nn.LayerNorm(c), Permute(0, 2, 1), nn.Conv1d(c, 2 * c, 1), nn.GLU(1),
        nn.Conv1d(c, c, 31, padding=15, groups=c), nn.BatchNorm1d(c), nn.SiLU(),
        nn.Conv1d(c, c, 1), Permute(0, 2, 1),
    )  # fmt: skip
    attention = Residual(Layers(nn.LayerNorm(c), Attention(c, 4)))
    return Layers(feed_forward(), attention, Residual(module), feed_forward(), nn.LayerNorm(c))


NETWORKS = {
    "ResNet-50": Network(resnet50, (3, 224, 224)),
    "MobileNetV2": Network(mobilenet_v2, (3, 224, 224)),
    "EfficientNet-B0": Network(efficientnet_b0, (3, 224, 224)),
    "ConvNeXt-T": Network(convnext_t, (3, 224, 224)),
    "U-Net": Network(UNet, (3, 128, 128)),
    "3-D ResNet-18": Network(resnet3d_18, (3, 8, 64, 64)),
    "WaveNet": Network(WaveNet, (1, 4096)),
    "Conformer block": Network(conformer, (400, 256)),
}

SMALL = {
    "U-Net": Network(lambda: UNet(8, 2), (3, 16, 16)),
    "3-D ResNet-18": Network(lambda: Layers(nn.Conv3d(3, 8, 3), nn.ReLU()), (3, 6, 6, 6)),
    "WaveNet": Network(lambda: WaveNet(8, 8, 1, 3), (1, 64)),
    "Conformer block": Network(lambda: conformer(16), (40, 16)),
}
"""Networks for a test of the benchmark itself."""
