"""Times the layers of `bench.torch_networks` one by one: ``python -m bench.torch_layers``.

The rates in `calibration/calibration_torch.json`, from which layers are routed, are fitted by hand
to its table: CPU time on one thread, which other processes disturb least, the least of some rounds
in which PyTorch and einstride take turns. A row that loses is one that the rates route to einstride
although it was measured slower.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.conv import _ConvNd

import einstride.torch
from bench.torch_models import FORMATS, memory_format
from bench.torch_networks import NETWORKS, SMALL
from einstride.interop.torch.predicted_times import Call, predict
from einstride.interop.torch.routing import MARGIN

SLICE = 0.01
"""Seconds that the calls of a turn fill."""

Layer = tuple[Any, tuple[int, ...]]


def layers(networks: Any, batch: int) -> list[Layer]:
    """Return the different convolutions of some networks, each with the shape of its input."""
    found: dict[str, Layer] = {}

    def seen(module: Any, given: Any, _: Any) -> None:
        shape = tuple(given[0].shape)
        found.setdefault(f"{type(module).__name__}{shape} {module.extra_repr()}", (module, shape))

    for network in networks.values():
        model = network.make().eval()
        for module in model.modules():
            if isinstance(module, _ConvNd):
                module.register_forward_hook(seen)
        with torch.no_grad():
            model(torch.randn(batch, *network.example))
    return list(found.values())


def call(function: Any, module: Any, shape: tuple[int, ...], form: Any, trained: bool) -> Any:
    """Return a call of a function of convolution on new operands, with its backward pass."""
    x = torch.randn(shape).to(memory_format=form)
    f = module.weight.detach().clone()
    f = f.to(memory_format=form) if form is not None else f
    keywords = {k: getattr(module, k) for k in ("stride", "padding", "dilation", "groups")}

    def forward() -> Any:
        with torch.no_grad():
            return function(x, f, **keywords)

    if not trained:
        return forward
    gy = torch.randn_like(forward())
    wanted = [x.requires_grad_(), f.requires_grad_()]
    return lambda: torch.autograd.grad(function(x, f, **keywords), wanted, gy)


def seconds(function: Callable[[], Any]) -> float:
    """Return the CPU time of a call, of as many as fill a slice."""
    begin, count = time.process_time(), 0
    while count == 0 or (time.process_time() - begin < SLICE and count < 50):
        function()
        count += 1
    return (time.process_time() - begin) / count


def row(layer: Layer, name: str, form: Any, trained: bool, rounds: int) -> str:
    """Time a layer in a memory format, and write measured and predicted microseconds."""
    module, shape = layer
    rank = len(shape) - 2
    function = f"conv{'_transpose' * module.transposed}{rank}d"
    calls = [
        call(getattr(library, function), module, shape, form, trained)
        for library in (torch.nn.functional, einstride.torch)
    ]
    for each in calls * 2:
        each()
    turns = [[seconds(each) for each in calls] for _ in range(rounds)]
    theirs, ours = (1e6 * min(turn[i] for turn in turns) for i in range(2))
    times = predict(
        Call(
            shape, tuple(module.weight.shape), "float32", module.stride, module.padding,
            module.dilation, module.groups, module.output_padding, "zeros", module.transposed,
            name == "channels_last", trained, False, torch.get_num_threads(),
        )
    )  # fmt: skip
    assert times is not None
    routed = times.einstride <= MARGIN * times.torch
    verdict = "" if routed == (ours < theirs) else "loses" if routed else "missed"
    cells = [
        f"{function} {'x'.join(map(str, shape))}", module.extra_repr(), name, times.algorithms,
        f"{theirs:.0f}", f"{1e6 * times.torch:.0f}", f"{ours:.0f}", f"{1e6 * times.einstride:.0f}",
        verdict,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> int:
    """Print the table, and the median quotients of measured and predicted times."""
    parser = argparse.ArgumentParser(prog="python -m bench.torch_layers", description=main.__doc__)
    parser.add_argument("--network", default="", help="only those whose name contains this")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--training", action="store_true", help="with the backward pass")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="one round of small networks")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    networks = SMALL if args.smoke else NETWORKS
    chosen = {name: n for name, n in networks.items() if args.network in name}
    print(
        "| input | layer | format | algorithm | PyTorch, us | predicted | einstride | predicted | |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []
    for layer in layers(chosen, 1 if args.smoke else args.batch):
        for name in FORMATS:
            form = memory_format(name, len(layer[1]) - 2)
            if form is not None:
                rounds = 1 if args.smoke else args.rounds
                rows.append(row(layer, name, form, args.training, rounds))
                print(rows[-1], flush=True)
    for who, column in (("PyTorch", 5), ("einstride", 7)):
        cells = [[float(c) for c in r.split("|")[column : column + 2]] for r in rows]
        print(
            f"{who}: measured over predicted, median "
            f"{statistics.median(a / b for a, b in cells):.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
