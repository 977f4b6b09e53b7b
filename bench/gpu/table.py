"""Joins the parts of a run to one JSON file and a short table.

``python -m bench.gpu.table --parts FOLDER --out FOLDER``
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections import defaultdict
from math import exp, log
from pathlib import Path
from typing import Any

OURS = "einstride"
# Largest relative difference of checksums, which are sums of magnitudes of millions of numbers:
# results of one problem agree far better, in any precision.
AGREE = 0.01
BY_DTYPE = {
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "float64": "float64",
}


def gather(parts: Path) -> dict[str, Any]:
    """Read the files of a run: steps, peak rates, and the newest record of each row and variant."""
    measured: dict[tuple[str, str, str], dict[str, Any]] = {}
    for path in sorted(parts.glob("*.jsonl")):
        for record in map(json.loads, path.read_text().splitlines()):
            measured[record["library"], record["variant"], record["row"]] = record
    found = {"rows": list(measured.values())}
    for name in ("state", "ceilings"):
        path = parts / f"{name}.json"
        found[name] = json.loads(path.read_text()) if path.exists() else None
    return found


def _cell(record: dict[str, Any] | None) -> str:
    return f"{record['ms']:.3f}" if record else "-"


def _is_tf32(record: dict[str, Any]) -> bool:
    return "tf32" in record["variant"]


def lines(found: dict[str, Any]) -> list[str]:
    """Write the table: times in milliseconds; ratios are the peer's time over einstride's."""
    by_row: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in found["rows"]:
        by_row[record["row"]].append(record)
    ceilings = found["ceilings"] or {}
    head = (
        f"{'row':48} {'ours':>9} {'+-':>5} {'host us':>8} {'of GEMM':>8} {'peer':>9} "
        f"{'ratio':>6} {'TF32':>9}  best peer"
    )
    out = [head]
    for row, records in by_row.items():
        timed = [r for r in records if "ms" in r]
        mine = [r for r in timed if r["library"] == OURS and not _is_tf32(r)]
        ours = min(mine, key=_ms, default=None)
        peers = [r for r in timed if r["library"] != OURS]
        peer = min((r for r in peers if not _is_tf32(r)), key=_ms, default=None)
        fast = min((r for r in peers if _is_tf32(r)), key=_ms, default=None)
        spread = host = share = ratio = "-"
        if ours:
            spread = f"{(ours['high'] - ours['low']) / ours['ms']:.0%}"
            host = f"{ours['host_us']:.0f}"
            limit = ceilings.get(BY_DTYPE.get(row.rsplit(" ", 1)[-1], ""))
            share = f"{ours['operations'] / (ours['ms'] / 1e3) / limit:.0%}" if limit else "-"
            ratio = f"{peer['ms'] / ours['ms']:.2f}" if peer else "-"
        name = f"{peer['library']} {peer['variant']}" if peer else ""
        out.append(
            f"{row:48} {_cell(ours):>9} {spread:>5} {host:>8} {share:>8} {_cell(peer):>9} "
            f"{ratio:>6} {_cell(fast):>9}  {name}{_remark(records, timed)}"
        )
    return out


ENGINE = "einstride[cudnn]"
# Targets: einstride's kernels against the best peer (cuDNN, by PyTorch, JAX or this library) in the
# same arithmetic, and the cudnn algorithm against PyTorch.
TARGETS = {
    "float32 dense 3x3": ("float32", ("dense 3x3",), 1.0),
    "float32 depthwise": ("float32", ("depthwise",), 1.0),
    "float32 large filters": ("float32", ("large filters",), 1.0),
    "float32 the others": ("float32", ("1x1", "other dense", "1-D", "3-D", "few channels"), 1.0),
    "complex64": ("complex64", (), 1.0),
    "float16": ("float16", (), 1.0),
    "bfloat16": ("bfloat16", (), 1.0),
    "float64": ("float64", (), 1.0),
    "the cudnn algorithm, by PyTorch": ("", (), 0.97),
}


def targets(found: dict[str, Any]) -> list[str]:
    """Write for each target the geometric mean of ratios, the least ratio, and the number of
    rows."""
    by_row: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in found["rows"]:
        if "ms" in record and not _is_tf32(record):
            by_row[record["row"]].append(record)
    out = []
    for name, (dtype, groups, wanted) in TARGETS.items():
        ratios = []
        for row, records in by_row.items():
            kind = records[0].get("group", "")
            if not row.endswith(dtype) or (groups and kind not in groups):
                continue
            mine = [r for r in records if r["library"] == (OURS if dtype else ENGINE)]
            others = [r for r in records if r["library"] != OURS]
            if not dtype:
                others = [r for r in records if r["library"] == "torch"]
            if mine and others:
                ratios.append(min(map(_ms, others)) / min(map(_ms, mine)))
        text = "nothing measured"
        if ratios:
            mean = exp(sum(map(log, ratios)) / len(ratios))
            verdict = "met" if mean >= wanted else "NOT met"
            text = f"{mean:.2f} (least {min(ratios):.2f}, {len(ratios)} rows): {verdict}"
        out.append(f"target {name}: at least {wanted}; {text}")
    return out


def _ms(record: dict[str, Any]) -> float:
    return float(record["ms"])


def _remark(records: list[dict[str, Any]], timed: list[dict[str, Any]]) -> str:
    sums = [r["checksum"] for r in timed]
    if sums and not max(sums) - min(sums) <= AGREE * max(sums):
        return "  ANSWERS DIFFER"
    failed = {f"{r['library']} {r['variant']}" for r in records if "problem" in r}
    return f"  failed: {', '.join(sorted(failed))}" if failed else ""


def main() -> int:
    """Write the JSON file and print the table; return 1 if results differ."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.table", description=__doc__)
    parser.add_argument("--parts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = gather(args.parts)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d-%H%M")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{stamp}.json"
    path.write_text(json.dumps({"date": stamp, **found}, indent=1) + "\n")
    ceilings = found["ceilings"] or {}
    print(f"{(ceilings.get('about') or {}).get('device', 'no device known')}; ", end="")
    print(", ".join(f"{k} {v:.3g}" for k, v in ceilings.items() if isinstance(v, float)))
    if "host" in str((ceilings.get("about") or {}).get("device")):
        print("without a GPU: these times show that the script runs, and nothing else")
    table = [*lines(found), *targets(found)]
    print("\n".join(table))
    path.with_suffix(".txt").write_text("\n".join(table) + "\n")
    print(f"written to {path}")
    return 1 if any("ANSWERS DIFFER" in line for line in table) else 0


if __name__ == "__main__":
    raise SystemExit(main())
