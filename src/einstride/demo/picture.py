"""Draw one picture of what the network learned, with matplotlib and without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einstride import nn
from einstride.arrays.backends import Array, of
from einstride.demo.digits import Digits
from einstride.demo.libraries import Library
from einstride.demo.training import Epoch, Result


def save(path: Path, digits: Digits, result: Result, library: Library) -> str:
    """Draw the results to a PNG file; return a sentence that says so, or why it was not done."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        return "No picture: matplotlib is not installed (pip install 'einstride[demo]')."
    shown = digits.test_images[:1]
    maps = _feature_maps(result.model, library.xp.asarray(shown))
    h1, h2 = (library.asnumpy(h)[0] for h in maps)
    filters = library.asnumpy(result.model.parameters["0.f"])[:, :, 0]

    margins = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure: Any = Figure(figsize=(13, 8.5), dpi=110, layout=margins)
    FigureCanvasAgg(figure)
    top, bottom = figure.subfigures(2, 1, hspace=0.04, height_ratios=(1.15, 1))
    digit, learned, first = top.subfigures(1, 3, wspace=0.03, width_ratios=(0.8, 1, 1))
    second, training = bottom.subfigures(1, 2, wspace=0.03, width_ratios=(1.2, 1))
    _plot_digit(digit, shown[0, :, :, 0], digits.test_labels[0], result.answers[0])
    _plot_maps(learned, f"Layer 1: {filters.shape[-1]} learned filters, 3 x 3", filters, 4,
           cmap="RdBu_r", low=-np.abs(filters).max(), high=np.abs(filters).max())  # fmt: skip
    _plot_maps(first, f"What they find in this digit, {_size(h1)}", h1, 4, cmap="magma",
           low=min(h1.min(), 0), high=h1.max())  # fmt: skip
    _plot_maps(second, f"Layer 2: {h2.shape[-1]} feature maps, {_size(h2)}", h2, 8, cmap="magma",
           low=min(h2.min(), 0), high=h2.max())  # fmt: skip
    _plot_curve(training, result.curve)
    figure.savefig(path, format="png")
    return f"Picture saved to {path}."


def _feature_maps(model: nn.Model, x: Array) -> list[Array]:
    """Compute the outputs of the two convolutional layers (after their ReLUs) for pictures x."""
    found: list[Array] = []
    for layer in model.net.layers:  # type: ignore[attr-defined]
        given, (x, _) = x, layer.forward(x, nn.Run(of("demo", ("x",), x)))
        if isinstance(layer, nn.ReLU) and found and found[-1] is given:
            found.pop()
        if isinstance(layer, nn.Conv | nn.ReLU):
            found.append(x)
    return found


def _size(maps: NDArray[np.float32]) -> str:
    return f"{maps.shape[0]} x {maps.shape[1]}"


def _plot_digit(figure: Any, image: NDArray[np.float32], label: int, answer: int) -> None:
    figure.suptitle(f"A held-out {label}; the answer was {answer}")
    axes = figure.subplots()
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])


def _plot_maps(
    figure: Any,
    title: str,
    maps: NDArray[np.float32],  # (height, width, number)
    columns: int,
    *,
    cmap: str,
    low: float,
    high: float,
) -> None:
    """Draw all maps with a common colour scale."""
    figure.suptitle(title)
    columns = min(columns, maps.shape[-1])
    grid = figure.subplots(-(-maps.shape[-1] // columns), columns, squeeze=False)
    for axes, values in zip(grid.flat, np.moveaxis(maps, -1, 0), strict=True):
        image = axes.imshow(values, cmap=cmap, vmin=low, vmax=high)
        axes.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=grid, shrink=0.8, pad=0.02)


def _plot_curve(figure: Any, curve: Sequence[Epoch]) -> None:
    figure.suptitle(f"Held-out accuracy after training: {curve[-1].test_accuracy:.1%}")
    axes = figure.subplots()
    epochs = range(1, len(curve) + 1)
    style = {"marker": "o", "markersize": 3}
    axes.plot(epochs, [e.train_loss for e in curve], color="tab:blue", label="loss", **style)
    axes.plot(
        epochs, [e.test_loss for e in curve], color="tab:orange", label="held-out loss", **style
    )
    axes.set(xlabel="epoch", ylabel="cross entropy", yscale="log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    right = axes.twinx()
    right.plot(
        epochs,
        [100 * e.test_accuracy for e in curve],
        color="tab:green",
        label="held-out accuracy",
        **style,
    )
    right.set_ylabel("accuracy (%)", color="tab:green")
    right.set_ylim(top=100)
    lines = [*axes.get_lines(), *right.get_lines()]
    names = [str(line.get_label()) for line in lines]
    figure.legend(lines, names, loc="outside lower center", ncols=3, frameon=False)
