"""Implement ``python -m einstride explain``, which prints the plan of a call from its shapes."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any

from einstride.api.plan import DirectionArguments, plan_for
from einstride.geometry.keywords import DEPTHWISE, Keywords
from einstride.support.errors import bad_value, shown

EXAMPLES = """\
examples:
  explain 8x56x56x64 3x3x64x64 --padding same
  explain 8x28x28x64 3x3x32x64 --direction transpose --stride 2 --groups 2
  explain 8x56x56x64 8x56x56x64 --direction filter_grad --kernel-size 3 --padding 1:1,1:1
"""
INTS = "an int, or one per spatial axis: 2 or 2,1"

WHERE = "explain"
"""The command that errors name."""

Parse = Callable[[str, str, str], Any]
"""Parses a text, from the command that errors name, the name of its option, and the text."""


def options(parser: ArgumentParser) -> None:
    """Add the arguments to a parser: the two shapes, and the keywords of `einstride.plan`."""
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("first", metavar="X", help="the shape of x (of gy for input_grad), e.g. 8x56x56x64; "
        "None as the batch: any")  # fmt: skip
    add("second", metavar="F", help="the shape of f (of gy for filter_grad), e.g. 3x3x64x64")
    add("--direction", help="forward (default), input_grad, filter_grad or transpose")
    add("--dtype", help="of both operands (default float32)")
    add("--library", help="the array library (default numpy)")
    for name in SIZES:
        add(f"--{name.replace('_', '-')}", metavar="N", help=INTS)
    add("--padding", metavar="P",
        help="an int, a name or low:high; or one per axis, e.g. same,1:2")  # fmt: skip
    for name, meaning in NAMES.items():
        add(f"--{name.replace('_', '-')}", metavar="NAME", help=meaning)
    for name, meaning in {**NUMBERS, **FILL}.items():
        add(f"--{name.replace('_', '-')}", metavar="N", help=meaning)
    for name, meaning in FLAGS.items():
        add(f"--{name.replace('_', '-')}", action="store_true", default=None, help=meaning)
    add("--json", action="store_true", help="print the plan as JSON, for Plan.from_json")


def run(args: Namespace) -> int:
    """Print the plan and return 0; if the arguments are invalid, print the error and return 2."""
    try:
        keywords = {
            name: parse(WHERE, name, value)
            for name, parse in PARSERS.items()
            if (value := getattr(args, name)) is not None
        }
        call = {n: keywords.pop(n, v) for n, v in CALL.items()}
        sizes = {n: keywords.pop(n) for n in DirectionArguments._fields if n in keywords}
        p = plan_for(
            WHERE, sizes_of(WHERE, "X", args.first), sizes_of(WHERE, "F", args.second), **call,
            sizes=DirectionArguments(**sizes), k=Keywords(**keywords),
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        print(error, file=sys.stderr)
        return 2
    print(p.to_json() if args.json else p)
    return 0


def integer(where: str, name: str, text: str) -> int:
    """Parse an integer."""
    return _integers(where, name, text, [text])[0]


def _integers(where: str, name: str, text: str, parts: list[str]) -> tuple[int, ...]:
    """Parse the parts of a text as integers; the error shows the whole text."""
    try:
        return tuple(map(int, parts))
    except ValueError:
        raise bad_value(
            where, f"{name} must be made of integers", shown(text), "write e.g. 2"
        ) from None


def number(where: str, name: str, text: str) -> int | float | complex:
    """Parse any number."""
    for kind in (int, float, complex):
        try:
            found: int | float | complex = kind(text)
        except ValueError:
            continue
        return found
    raise bad_value(where, f"{name} must be a number", shown(text), "write e.g. 0.5")


def groups(where: str, name: str, text: str) -> int | str:
    """Parse a number of groups, or the name that stands for the number of channels."""
    return text if text == DEPTHWISE else integer(where, name, text)


def numbers(where: str, name: str, text: str) -> tuple[int, ...]:
    """Parse integers of the form 8x56x56x64 or 8,56,56,64."""
    return _integers(where, name, text, text.replace("x", ",").split(","))


def sizes_of(where: str, name: str, text: str) -> tuple[int | None, ...]:
    """Parse a shape of the form 8x56x56x64, or Nonex56x56x64 for any batch."""
    parts = text.replace("x", ",").split(",")
    known = iter(_integers(where, name, text, [part for part in parts if part != "None"]))
    return tuple(None if part == "None" else next(known) for part in parts)


def ints(where: str, name: str, text: str) -> int | tuple[int, ...]:
    """Parse one int, or one int for each axis."""
    found = numbers(where, name, text)
    return found if len(found) > 1 else found[0]


def padding(where: str, name: str, text: str) -> Any:
    """Parse a padding: one entry (an int, a name or low:high), or one entry for each axis."""
    entries: list[Any] = []
    for part in text.split(","):
        if ":" in part:
            entries.append(_integers(where, name, text, part.split(":")))
        else:
            number = part.lstrip("+-").isdigit()
            entries.append(integer(where, name, part) if number else part)
    single = len(entries) == 1 and not isinstance(entries[0], tuple)
    return entries[0] if single else tuple(entries)


def unchanged(where: str, name: str, value: Any) -> Any:
    """Return a name or a flag as it is."""
    return value


SIZES = ("stride", "dilation", "input_dilation", "input_size", "kernel_size", "output_padding",
         "output_size")  # fmt: skip
NAMES = {
    "padding_mode": "zeros (default), reflect, replicate, circular, symmetric or constant",
    "layout": "channels_last (default), channels_first or a spec such as NCHW,OIHW->NCHW",
    "algorithm": "auto (default) or the name of one",
    "accuracy": "normwise (default), elementwise or tf32",
    "accumulate": "the dtype of the sums",
}
NUMBERS = {
    "groups": "default 1; or depthwise: as many as channels",
    "max_workspace": "bytes beyond inputs and output that may be used",
}
FILL = {"fill": "the number in a constant border, default 0"}
FLAGS = {
    "flip": "reverse the filter, as in mathematics",
    "per_example": "a filter gradient for each example",
    "batch_invariant": "the same bits in any batch",
}
CALL = {"direction": "forward", "dtype": None, "library": "numpy"}
PARSERS: dict[str, Parse] = {
    "padding": padding,
    **dict.fromkeys(SIZES, ints),
    **dict.fromkeys(NUMBERS, integer),
    "groups": groups,
    **dict.fromkeys(FILL, number),
    **dict.fromkeys(("direction", "dtype", "library", *NAMES, *FLAGS), unchanged),
}
