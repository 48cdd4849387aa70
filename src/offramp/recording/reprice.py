"""Costs of another kind in a recorded trace: money, energy, another machine's times."""

from __future__ import annotations

import shutil
from pathlib import Path

from offramp.base.errors import TraceError
from offramp.base.files import storage
from offramp.base.manifests import HASH, PRINTS, read_manifest, write_manifest
from offramp.base.outputs import new_folder
from offramp.core.costs import COST_KEYS
from offramp.core.graph import Costs, Graph
from offramp.core.parts import TRACE, TRACE_VERSION, Recording


def reprice(path: Path, costs: Costs, out: Path, *, force: bool = False) -> Costs:
    """Writes the trace of folder `path` with other costs to folder `out`, whole or not at all.

    Every file but the manifest is copied as it is, and of the manifest everything but the costs:
    what this version does not know stays as well. Costs per example lie in the files, and count no
    more: the manifest says whether they do.

    Args:
        path: a finished trace.
        costs: of every stage, in any unit; a network that was cut costs the sum of its parts where
            its cost uncut is not given.
        out: another folder, or with `force` the same.
        force: replace what is there.

    Returns:
        The costs, in the order of the graph's stages.

    Raises:
        TraceError: no trace, or an unfinished one.
        CostError: costs that do not fit its stages.
        StorageError: it cannot be written.
    """
    manifest = read_manifest(path, "trace", TRACE_VERSION, Recording, TraceError)
    if not manifest["complete"]:
        raise TraceError(f"recording {path} was interrupted; finish it before it gets other costs.")
    checked = Graph.from_json(manifest["graph"]).check_costs(costs)
    kept = {key: value for key, value in manifest.items() if key not in (*COST_KEYS, PRINTS, HASH)}
    with new_folder(out, TRACE, force=force) as folder, storage(folder):
        shutil.copytree(path, folder, dirs_exist_ok=True)
        write_manifest(folder, "trace", {**kept, **checked.to_json()})
    return checked


def have_example_costs(path: Path) -> bool:
    """Whether costs differ from example to example in the trace of folder `path`."""
    manifest = read_manifest(path, "trace", TRACE_VERSION, Recording, TraceError)
    return manifest.get("cost_examples") is not None
