"""Tables from what `rdt bench step` printed: `python -m rdt_ros.bench.step_table FIGURES.json ...`"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdt_ros.bench.step_kernels import SOLVER_CHOICES
from rdt_ros.errors import InputError

AS_IT_IS = next(iter(SOLVER_CHOICES))
ALL_NEW_PARTS = (
    *("decode of 6", "pictures of 6 to the device", "vision of 6"),
    "conditions and solver steps, as they run",
)
HEADLINES = {
    "all six pictures new, p50 (ms)": "step_all_new_ms_p50",
    "all six pictures new, p99 (ms)": "step_all_new_ms_p99",
    "three pictures new, p50 (ms)": "step_ms_p50",
    "three pictures new, p99 (ms)": "step_ms_p99",
    "floor, all new (ms)": "floor_ms",
    "step over floor, all new": "floor_ratio",
    "reference's step (ms)": "reference_ms_p50",
    "reference over step": "ratio",
    "relative error against float32": "relative_error",
    "the reference's": "reference_relative_error",
    "peak memory (GB)": "peak_gb",
    "start of the process to first chunk (s)": "first_chunk_s",
    "GPU time for a second of motion (ms)": "gpu_ms_per_s_of_motion",
    "SigLIP's work in it (TFLOP)": "vision_tflop_per_s_of_motion",
}


def headlines(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a figure, a column a run."""
    rows = [["", *(f"{run['model']}, {run['device']}" for run in runs)]]
    rows += [[name, *(_shown(run.get(key)) for run in runs)] for name, key in HEADLINES.items()]
    return _table(rows)


def shares(run: Mapping[str, Any]) -> list[str]:
    """Where the time of a step with six new pictures goes; the rest is the host, less what of the parts overlaps."""
    whole_ms, parts = run["step_all_new_ms_p50"], run["parts_ms"] or {}
    found = {name: parts[name] for name in ALL_NEW_PARTS if name in parts}
    found["host, less what runs beside the decoding"] = whole_ms - sum(found.values())
    rows = [["part", "ms", "share"]]
    return _table(rows + [[name, _shown(ms), f"{ms / whole_ms:.0%}"] for name, ms in found.items()])


def gains(run: Mapping[str, Any]) -> list[str]:
    """What each choice saves: the time without it minus the time as it is."""
    solver = {name.split(", ", 1)[1]: ms for name, ms in (run.get("choices_ms") or {}).items() if "solver" in name}
    as_it_is = solver.pop(AS_IT_IS, None)
    rows = [["otherwise", "ms", "saved (ms)"]]
    for name, ms in solver.items():
        rows.append([name, _shown(ms), _shown(None if ms is None or as_it_is is None else ms - as_it_is)])
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    first, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return [first, "|" + "---|" * len(rows[0]), *rest]


def _shown(figure: float | None) -> str:
    return "not measured" if figure is None else f"{figure:.3g}"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="rdt bench step_table", description=__doc__.splitlines()[0])
    parser.add_argument("figures", nargs="+", type=Path, help="files whose last line is what the bench printed")
    args = parser.parse_args(argv)
    runs = []
    for path in args.figures:
        try:
            runs.append(json.loads(path.read_text().splitlines()[-1]))
        except (OSError, ValueError, IndexError) as error:
            raise InputError(f"{path}: expected what `rdt bench step` printed ({error})") from None
    print("\n".join(headlines(runs)))
    for run in runs:
        title = f"{run['model']}, {run['device']}"
        print("\n".join(["", f"Shares of {title}:", "", *shares(run), "", f"Choices of {title}:", "", *gains(run)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
