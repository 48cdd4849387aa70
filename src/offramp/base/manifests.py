"""Folders of offramp: a manifest KIND.json that describes all they hold, and says if it changed.

A manifest carries `fingerprints`, of every file beside it by name, and `hash`, one over all that
it says, these included. Both find accidents: a disk that lost bits, a copy that was cut short, a
hand edit. They are no signature: whoever wants to forge a manifest can write its hash as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

import msgspec

from offramp.base.errors import InputError, foreign
from offramp.base.files import fingerprint, fingerprint_of, read_json, regular, write_json
from offramp.base.outputs import OutputKind, restore

HASH, PRINTS = "hash", "fingerprints"
_GROWING = ("part-*.parquet", ".*.part")  # beside the manifest of a recording that goes on
LATER = frozenset({"ledger.jsonl"})  # grows after its folder was written: in no manifest


def kind_of_folder(kind: str) -> OutputKind:
    """What commands that write folders with KIND.json write."""
    return OutputKind(f"a {kind}", lambda path: holds_only(path, kind))


def holds_only(folder: Path, kind: str) -> bool:
    """Whether a folder is of a kind, and holds nothing but what its manifest lists."""
    try:
        value = read_json(folder / f"{kind}.json", InputError)
    except InputError:
        return False
    listed = value.get(PRINTS)
    if HASH not in value or not isinstance(listed, dict):
        return False
    others = names_in(folder) - {f"{kind}.json"} - set(listed)
    if value.get("complete", True):
        return not others
    return all(any(PurePosixPath(name).match(p) for p in _GROWING) for name in others)


class Manifest(TypedDict):
    """What every manifest holds."""

    version: int
    fingerprints: dict[str, str]  # name, with / between folders -> fingerprint
    hash: str


def write_manifest(
    folder: Path, kind: str, value: Mapping[str, Any], files: Mapping[str, str] | None = None
) -> None:
    """Writes folder/KIND.json with its hash, whole or not at all.

    Args:
        folder: that it describes.
        kind: graph, trace, plan, routes or demo.
        value: what it says, as JSON values.
        files: name -> fingerprint of the files beside it; None: of all that the folder holds now.
    """
    prints = fingerprints(folder, kind) if files is None else dict(files)
    said = {**value, PRINTS: prints}
    write_json(folder / f"{kind}.json", {**said, HASH: content_hash(said)})


def read_manifest(
    folder: Path, kind: str, version: int, schema: type, error: type[InputError]
) -> dict[str, Any]:
    """What folder/KIND.json says, once it is known to be what offramp wrote.

    Args:
        folder: of that kind.
        kind: graph, trace, plan or routes.
        version: the one that can be read.
        schema: a TypedDict, of what type each value is.
        error: raised where there is no manifest, one of another version, or where it or a file
            beside it was altered, is missing, or of another type.
    """
    restore(folder)
    path = folder / f"{kind}.json"
    if not path.exists():
        raise error(f"{folder} is not a {kind}: it holds no {path.name}.")
    value = read_json(_inside(folder, path, error), error)
    if value.get("version") != version:
        raise error(
            f"{folder} is a {kind} of version {_short(value.get('version'))}; this offramp reads "
            f"version {version}. Upgrade offramp, or make the {kind} again."
        )
    check_hash(path, value, error)
    check_schema(path, value, schema, error)
    for name, expected in value[PRINTS].items():
        _check_file(folder, name, expected, error)
    return value


def fingerprints(folder: Path, kind: str) -> dict[str, str]:
    """The fingerprint of every file in a folder but its manifest, by name."""
    names = sorted(names_in(folder) - {f"{kind}.json"})
    return {name: fingerprint(folder / name) for name in names}


def names_in(folder: Path) -> set[str]:
    """The names of all that a folder and its folders hold, but for what grows later."""
    found = (p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return {p.relative_to(folder).as_posix() for p in found if p.name not in LATER}


def content_hash(value: Mapping[str, Any]) -> str:
    """The hash of what a manifest says, whatever the order and the spaces between."""
    said = {key: item for key, item in value.items() if key != HASH}
    text = json.dumps(json.loads(json.dumps(said, allow_nan=False)), sort_keys=True)
    return fingerprint_of(text.encode())


def check_hash(path: Path, value: Mapping[str, Any], error: type[InputError]) -> None:
    """Raises `error` unless a manifest says what was written."""
    try:
        same = value.get(HASH) == content_hash(value)
    except (ValueError, RecursionError):  # infinite numbers, or ones of thousands of digits
        same = False
    if not same:
        raise error(
            f"{path} does not match its hash: it was damaged or altered since it was written, or "
            "an older offramp wrote it. Make the folder again; manifests are not edited by hand."
        )


def check_schema(
    path: Path, value: Mapping[str, Any], schema: type, error: type[InputError]
) -> None:
    """Raises `error` where a value is missing or not of the type that `schema` says."""
    with foreign(error, f"{path} is damaged", "Make the folder again."):
        msgspec.convert(value, schema)


def _check_file(folder: Path, name: str, expected: str, error: type[InputError]) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or not pure.parts or ".." in pure.parts:
        raise error(f"{folder} lists the file {name!r}, which is not one of its own.")
    path = folder / pure
    if not path.exists():
        raise error(f"{path} is missing; copy the whole folder, or make it again.")
    if fingerprint(_inside(folder, path, error)) != expected:
        raise error(
            f"{path} does not match its fingerprint: it is cut short or altered, and a "
            "certificate holds for the original alone. Make the folder again."
        )


def _inside(folder: Path, path: Path, error: type[InputError]) -> Path:
    """`path`, where it is a file in `folder`: links are not followed out of a folder."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise error(f"{path} is a link out of its folder; put the file itself there.")
    return regular(path, error)


def _short(value: Any) -> str:
    text = str(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) < 20 else text[:20] + "..."
