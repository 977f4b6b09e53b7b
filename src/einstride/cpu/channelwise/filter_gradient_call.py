"""Filter gradients with few channels in a group: units, tables of sums, words.

A unit is a range of rows, or a part of one, with a table of sums of its own; the tables are added
in order afterwards. How work is cut into units depends on shapes alone, never on threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from einstride.codegen import jit
from einstride.cpu.channelwise import channels_gradient as channels
from einstride.cpu.channelwise import positions_gradient as positions
from einstride.cpu.channelwise.form import FEW, Form, interior, tables, whole_vectors
from einstride.cpu.channelwise.forward_call import surroundings
from einstride.cpu.runtime.argument_block import Call
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.caches import cached

UNITS = 16
"""Chunks of work, about."""

SUMS = 2 << 20
"""Bytes of tables, about: units give way to large filters."""

PANELS = 8
"""Ranges of channels that threads may take apart, at most."""

STRIP = 256
"""Positions in a part of a row, at least."""


@dataclass(frozen=True)
class Cuts:
    """How a filter gradient is cut.

    Attributes
    ----------
    groups : int
        Results: one, or one for each example.
    units : int
        Ranges of rows of a group.
    rows : int
        In each of them.
    strips : int
        Parts of a row.
    """

    groups: int
    units: int
    rows: int
    strips: int

    @property
    def tables(self) -> int:
        """Tables of one group."""
        return self.units * self.strips


@cached(1024)
def cuts(g: Geometry, per_example: bool, compute: str) -> Cuts:
    """From shapes alone."""
    groups = g.batch if per_example else 1
    rows = prod(g.out[:-1]) * (g.batch // groups)
    size = prod(g.f_shape) * ITEMSIZE[compute]
    panels = min(PANELS, max(g.filters * ITEMSIZE[compute] // 256, 1)) if g.groups > 1 else 1
    wanted = max(min(-(-UNITS // panels), SUMS // max(size, 1)), 1)
    wanted = 1 if g.multiply_adds // groups < FEW else wanted
    each = -(-rows // min(wanted, rows))
    units = -(-rows // each)
    strips = max(min(wanted // units, g.out[-1] // STRIP), 1)
    return Cuts(groups, units, each, -(-g.out[-1] // -(-g.out[-1] // strips)))


def call(form: Form, cut: Cuts) -> Call:
    """sums += conj(x) gy: wants the addresses x, y (of gy) and f, tables of zeros in order."""
    g = form.geometry
    chunks = cut.groups * cut.tables
    words = {
        "strips": cut.strips, "units": cut.units, "rows": cut.rows,
        "group_rows": prod(g.out[:-1]) * (g.batch // cut.groups),
        "f_unit": prod(g.f_shape) * form.parts,
    }  # fmt: skip
    build = _along if form.along else _across
    module, spec, more, listed = build(form, cut)
    words |= form.words(listed) | more
    words["chunks"] = chunks * more.get("panels", 1)
    kernel = jit.KernelSpec(module.NAME, module.kernel, (spec,), form.machine)
    names = module.arguments(g.rank)
    known = {name: words[name] for name in names if name in words}
    return Call(kernel, names, known, min(form.used, words["chunks"]), listed)


def _across(form: Form, cut: Cuts) -> tuple[Any, Any, dict[str, int], list[Any]]:
    """Vectors across channels."""
    g = form.geometry
    inputs, outputs = g.channels // g.groups, g.filters // g.groups
    inside, outside = interior(g)
    listed, shift = tables(form, (inside, outside), False)
    filters = g.filters if form.merged else outputs
    count = -(-filters * form.parts // form.lanes)
    c = inputs
    if not form.merged:
        c = max(i for i in range(1, min(inputs, 8) + 1) if inputs % i == 0)
    taps = max(form.room // c, 1)
    tile = -(-g.kernel[-1] // -(-g.kernel[-1] // taps))
    vectors = max(min(form.room // (tile * c), count, 4), 1)
    spec = channels.Spec(
        form.x, form.y, form.lanes, g.rank, g.kernel[-1], tile, vectors, form.merged, c,
        outputs if form.merged else 0, *form.unit,
    )  # fmt: skip
    whole = g.filters * form.parts if form.merged else g.groups
    piece = vectors * form.lanes if form.merged else 1
    panel = whole if form.used == 1 else -(-whole // (piece * PANELS)) * piece
    more = {
        "x": shift, "inside": inside, "outside": outside, "panel": panel,
        "panels": -(-whole // panel), "strip": -(-g.out[-1] // cut.strips),
    }  # fmt: skip
    return channels, spec, more, listed


def _along(form: Form, cut: Cuts) -> tuple[Any, Any, dict[str, int], list[Any]]:
    """Vectors along rows of positions."""
    g, each = form.geometry, form.lanes // form.parts
    inside, outside = whole_vectors(form)
    room = (16 if form.machine.registers == 32 else 8) // form.parts
    tile = -(-g.kernel[-1] // -(-g.kernel[-1] // room))
    unit = g.stride[-1] * form.x_steps[-2] == form.parts
    masked = unit and g.padding_mode == "zeros"
    spec = positions.Spec(
        form.x, form.y, form.lanes, g.rank, g.kernel[-1], tile, unit,
        form.y_steps[-2] == form.parts, masked,
    )  # fmt: skip
    listed, shift = tables(form, (0, g.out[-1]) if masked else (inside, outside), True)
    strip = (outside - inside) // cut.strips // each * each
    more = {"x": shift, "inside": inside, "outside": outside, "strip": strip}
    return positions, spec, more | surroundings(form, inside, outside), listed
