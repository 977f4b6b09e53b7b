"""Implement ``python -m einstride show``, which writes the page that shows a convolution."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from einstride.tools import explain
from einstride.viewer import svg
from einstride.viewer.show import PASSES, show

EXAMPLES = """\
examples:
  show 6x6x1 3x3x1x2 --stride 2 --padding same
  show 1x12x2 4x2x3 --dilation 2 --padding causal --pass input_grad --open
  show 8x512x512x64 3x3x64x64 --at 100 --out large.html
"""

WHERE = "show"
"""The command that errors name."""

SETTINGS = ("padding", "padding_mode", "fill", "layout", "stride", "dilation", "input_dilation",
            "groups", "flip", "dtype", "algorithm", "accuracy", "max_workspace")  # fmt: skip


def options(parser: ArgumentParser) -> None:
    """Add the arguments to a parser: the two shapes, the keywords of `einstride.show`, the file."""
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("first", metavar="X", help="the shape of x, e.g. 6x6x1, or 8x6x6x1 with a batch; "
        "None as the batch: any")  # fmt: skip
    add("second", metavar="F", help="the shape of f, e.g. 3x3x1x2")
    add("--pass", dest="direction", default="forward", metavar="NAME",
        help=f"the pass that is shown first: {', '.join(PASSES)}")  # fmt: skip
    add("--padding", metavar="P",
        help="an int, a name or low:high; or one per axis, e.g. same,1:2")  # fmt: skip
    for name in ("stride", "dilation", "input_dilation"):
        add(f"--{name.replace('_', '-')}", metavar="N", help=explain.INTS)
    add("--at", metavar="N", help="the first output that is drawn of a large input")
    add("--groups", metavar="N", help=explain.NUMBERS["groups"])
    add("--fill", metavar="N", help=explain.FILL["fill"])
    add("--max-workspace", metavar="N", help=explain.NUMBERS["max_workspace"])
    add("--dtype", metavar="NAME", help="of both arrays (default float32)")
    for name in ("padding_mode", "layout", "algorithm", "accuracy"):
        add(f"--{name.replace('_', '-')}", metavar="NAME", help=explain.NAMES[name])
    add("--flip", action="store_true", default=None, help=explain.FLAGS["flip"])
    add("--title", metavar="TEXT", help="the page's title (default: the shapes)")
    add("--out", type=Path, default=Path("convolution.html"), metavar="PATH",
        help="the page (default convolution.html); NAME.svg: a picture of one window")  # fmt: skip
    add("--open", action="store_true", help="open the page in the browser")


def run(args: Namespace) -> int:
    """Write the page and return 0; if it cannot be made, print the error and return 2."""
    try:
        keywords = {
            name: explain.PARSERS[name](WHERE, name, value)
            for name in SETTINGS
            if (value := getattr(args, name)) is not None
        }
        if args.at is not None:
            keywords["at"] = explain.ints(WHERE, "at", args.at)
        page = show(
            explain.sizes_of(WHERE, "X", args.first), explain.numbers(WHERE, "F", args.second),
            direction=args.direction, title=args.title, **keywords,
        )  # fmt: skip
        if args.out.suffix == ".svg":
            args.out.write_text(svg.window(WHERE, page.data, None), encoding="utf-8")
            written = args.out.resolve()
        else:
            written = page.open(args.out) if args.open else page.save(args.out)
    except (ValueError, TypeError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"show: cannot write the page; got {error}; pass another --out", file=sys.stderr)
        return 2
    print(written)
    return 0
