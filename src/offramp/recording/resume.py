"""What an interrupted recording and the one that continues it share, and what is kept of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offramp.base.errors import InputError, TraceError
from offramp.base.files import remove
from offramp.base.manifests import PRINTS, read_manifest, write_manifest
from offramp.base.outputs import check_output, new_folder, only_one
from offramp.core.ledger import carry
from offramp.core.parts import TRACE, TRACE_VERSION, Recording, part_path, parts


@contextmanager
def begun(out: Path, identity: Mapping[str, Any], force: bool) -> Iterator[dict[str, str]]:
    """Makes `out` ready, keeps others from it, and gives the fingerprints of the parts it holds."""
    if force or not (out / "trace.json").exists():
        with new_folder(out, TRACE, force=force) as folder:  # it is never without a manifest
            note(folder, identity, {})
            if force and _same_data(out, identity):
                carry(out, folder)  # the same rows stay opened, and looked at
    with only_one(out):
        # read again here: whoever wrote it a moment ago may have ended since
        value = read_manifest(out, "trace", TRACE_VERSION, Recording, TraceError)
        if value["complete"]:
            check_output(out, False, TRACE)  # says that it exists already
        yield _continued(out, value, identity)


def _same_data(out: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a folder holds a recording of the same examples."""
    try:
        there = read_manifest(out, "trace", TRACE_VERSION, Recording, TraceError)
    except TraceError:
        return False
    return bool(there.get("data") == identity["data"])


def note(out: Path, identity: Mapping[str, Any], prints: Mapping[str, str]) -> None:
    """Writes trace.json of a recording that goes on; it lists the parts that are done."""
    value = {"version": TRACE_VERSION, "complete": False, **identity}
    write_manifest(out, "trace", value, prints)


def _continued(
    out: Path, started: Mapping[str, Any], identity: Mapping[str, Any]
) -> dict[str, str]:
    for name, value in identity.items():
        if started.get(name) != value:
            raise InputError(
                f"{out} holds an interrupted recording with another {name}. Choose another --out, "
                "or start again with --force."
            )
    for left in out.glob(".*.part"):  # what was being written when it stopped
        remove(left)
    prints: dict[str, str] = dict(started[PRINTS])
    if list(prints) != [part_path(out, part).name for part in range(len(prints))]:
        raise TraceError(f"{out} does not list its parts in order; start again with --force.")
    for part in parts(out):  # written, but not yet listed
        if part.name not in prints:
            remove(part)
    return prints
