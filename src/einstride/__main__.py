"""Run the command line, ``python -m einstride COMMAND``."""

from __future__ import annotations

import argparse
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import einstride

CLOSED_PIPE = 141
"""Exit status after the reader of the output closed the pipe: what a shell reports of a program
that the signal SIGPIPE ended, 128 + 13."""


class Command(NamedTuple):
    """Hold a subcommand; its `run` imports the modules it needs, so that no command loads more."""

    summary: str
    options: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


def _demo_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--backend", choices=("numpy", "cupy", "strict"), default="numpy",
        help="the array library: NumPy (default), CuPy or array-api-strict")  # fmt: skip
    add("--epochs", type=_at_least(1), metavar="N", help="default 30; 1 with --quick")
    add("--seed", type=_at_least(0), default=0, metavar="N",
        help="of the random numbers (default 0)")  # fmt: skip
    add("--picture", type=Path, default=Path("demo.png"), metavar="PATH",
        help="where the picture goes, a PNG (default demo.png)")  # fmt: skip
    add("--twist", action="store_true",
        help="train the network of twistml's README instead of the demo's own")  # fmt: skip
    add("--quick", action="store_true", help="few digits and one epoch, to see that it runs")


def _demo(args: Namespace) -> int:
    from einstride.demo import story

    return story.run(args.backend, args.epochs, args.seed, args.picture, args.quick, args.twist)


def _no_options(parser: ArgumentParser) -> None:
    pass


def _info(args: Namespace) -> int:
    from einstride.tools import info

    print(info.text())
    return 0


def _explain_options(parser: ArgumentParser) -> None:
    from einstride.tools import explain

    explain.options(parser)


def _explain(args: Namespace) -> int:
    from einstride.tools import explain

    return explain.run(args)


def _show_options(parser: ArgumentParser) -> None:
    from einstride.tools import show

    show.options(parser)


def _show(args: Namespace) -> int:
    from einstride.tools import show

    return show.run(args)


def _warmup_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--dtype", nargs="+", default=["float32"], metavar="NAME",
        choices=("float32", "float64", "complex64", "complex128", "int8"),
        help="for arrays of these dtypes (default float32)",
    )  # fmt: skip


def _warmup(args: Namespace) -> int:
    from einstride.tools import warmup

    return warmup.run(tuple(args.dtype))


def _calibrate_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, metavar="PATH",
        help="the file to write, instead of the one in the user's folder",
    )  # fmt: skip


def _calibrate(args: Namespace) -> int:
    from einstride.tools import calibrate

    return calibrate.run(args.output)


COMMANDS = {
    "calibrate": Command(
        "measure this machine's rates for algorithm='auto', in half a minute, and keep them",
        _calibrate_options,
        _calibrate,
    ),
    "demo": Command(
        "check the convolutions, then train a network on handwritten digits", _demo_options, _demo
    ),
    "explain": Command(
        "plan a convolution from its shapes, with the predicted cost of every algorithm",
        _explain_options,
        _explain,
    ),
    "info": Command(
        "print versions, array libraries, devices, and the choices of algorithm='auto'",
        _no_options,
        _info,
    ),
    "show": Command(
        "write a page that shows a convolution: windows, memory, sums, gradients and the plan",
        _show_options,
        _show,
    ),
    "warmup": Command(
        "compile the CPU kernels that common layers need, and keep them on disk",
        _warmup_options,
        _warmup,
    ),
}


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return number


def parser() -> ArgumentParser:
    """Make the parser of the whole command line."""
    top = ArgumentParser(
        prog="python -m einstride", description="N-dimensional convolution for plain arrays."
    )
    top.add_argument("--version", action="version", version=f"einstride {einstride.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, help=command.summary, description=command.summary)
        command.options(one)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return the exit status: 0, or 2 if the command could not run."""
    args = parser().parse_args(arguments)
    return COMMANDS[args.command].run(args)


def run() -> int:
    """Run `main` as a program, which ends quietly if the reader of its output closes the pipe."""
    try:
        try:
            return main()
        finally:  # what is still in the buffer may be what the reader does not take
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes once more
        return CLOSED_PIPE


if __name__ == "__main__":
    sys.exit(run())
