"""What optimising tried, and what came of it, for the terminal."""

from __future__ import annotations

from rich.console import Group

from offramp.command.sheets import Sheet, painted
from offramp.command.tables import certificate
from offramp.optimizing import Optimized


def optimized(found: Optimized) -> Group:
    """What was tried, what is promised, and the static networks beside the plan on the clock."""
    tried, sibling = found.siblings["tried"], found.siblings
    copies = Sheet(
        title="copies",
        columns=("stage", "", "times as fast", "answers changed"),
        texts=2,
        rows=[
            [
                painted(name, sibling["stages"]),
                sibling["dropped"].get(name, "kept"),
                f"{copy['speedup']:.2f}",
                f"{copy['changed']:.2%}",
            ]
            for name, copy in tried.items()
        ],
        caption="\n".join(f"{n}: {why}" for n, why in sibling["dropped"].items() if n not in tried),
    )
    return Group(copies, "", certificate(found.plan), "", _statics(found))


def _statics(found: Optimized) -> Sheet:
    rows = found.rows
    fastest = {row.batch: row.speedup for row in rows if row.what == "int8"}
    return Sheet(
        title="on the clock",
        columns=("", "batch", "ms", "speed-up", "over int8", "answers changed", "error"),
        rows=[
            [
                row.name,
                str(row.batch),
                f"{row.ms:.3f}",
                f"{row.speedup:.2f}",
                f"{row.speedup / fastest[row.batch]:.2f}" if row.batch in fastest else "",
                f"{row.changed:.2%}",
                "" if row.error is None else f"{row.error:.2%}",
            ]
            for row in rows
        ],
        caption=f"{found.folder / 'model.onnx'} is the plan in one file. Speed-ups are over the "
        "fastest fp32 runtime of the reference, in the same run",
    )
