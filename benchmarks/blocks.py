"""What each block of observations is worth to the linear policy, which is learned without it.

Usage: python -m benchmarks.blocks DATA [--cache DIR] [--splits 10] [--jobs 2]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from benchmarks.peers import FIRST, Draw, Measured, Split, everything, leads
from benchmarks.results import CACHE, Data, command
from offramp.policies.features import BLOCKS
from offramp.policies.learned import Learned

LEFT_OUT = 2000  # examples to learn from
WHOLE = "all blocks"


def worth(data: Data, cache: Path = CACHE, splits: int = 10, jobs: int = 2) -> dict[str, Any]:
    run, seeds = Parallel(jobs), range(FIRST, FIRST + 2 * splits, 2)
    found: dict[str, Any] = {}
    for name, draw in everything(data, cache).items():
        less = run(delayed(without)(draw, seed) for seed in seeds)
        if kept := [split for split in less if split is not None]:
            found[name] = leads(kept, WHOLE)
    return {"splits": splits, "blocks": found}


def without(draw: Draw, seed: int) -> Split | None:
    """The learned policy without one block of features, and with all of them."""
    pair = draw(LEFT_OUT, seed)
    if pair is None:
        return None
    learning, test = pair
    losses, measured = learning.losses("top1"), Measured(test)
    kept: dict[str, tuple[str, ...]] = {WHOLE: BLOCKS}
    kept |= {f"without {name}": tuple(b for b in BLOCKS if b != name) for name in BLOCKS[1:]}
    return {
        name: measured.of(Learned.fit(learning, losses, blocks=blocks))
        for name, blocks in kept.items()
    }


if __name__ == "__main__":
    command("blocks", worth)
