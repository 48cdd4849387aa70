"""Folders of images: which folders are classes, which files are images, and what is neither."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offramp.base.errors import DataError
from offramp.base.files import fingerprint
from offramp.networks.images import IMAGES

_JUNK = frozenset(
    (
        *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information"),
        *("lost+found", "__pycache__", "thumbs.db", "desktop.ini"),
    )
)
_SHOWN = 10  # classes that are listed


@dataclass(frozen=True)
class Folder:
    """The images in a folder, in order, and what is known of them."""

    images: tuple[tuple[Path, int | None], ...]  # files and labels
    classes: tuple[str, ...]  # names of sub-folders, by label; none where it is flat
    notes: tuple[str, ...]  # sentences on what was left aside


@dataclass(frozen=True)
class _Inside:
    """What lies directly in a folder, each sorted by name."""

    folders: list[Path]
    images: list[Path]
    others: list[Path]  # files that are no images, and what is no file
    junk: list[Path]  # left by systems and tools, and hidden

    @classmethod
    def of(cls, path: Path) -> _Inside:
        folders, images, others, junk = [], [], [], []
        for found in sorted(path.iterdir()):
            if found.name.startswith(".") or found.name.lower() in _JUNK:
                junk.append(found)
            elif found.is_dir():
                folders.append(found)
            elif found.suffix.lower() in IMAGES and found.is_file():
                images.append(found)
            else:
                others.append(found)
        return cls(folders, images, others, junk)


def read_folder(path: Path) -> Folder:
    """The images in one sub-folder per class, labelled in the order of names, or in a flat folder.

    Raises:
        DataError: there are none; images beside sub-folders; a sub-folder without any, which would
            shift the labels of those after it.
    """
    top = _Inside.of(path)
    if top.folders and top.images:
        raise DataError(
            f"{path} holds both images and sub-folders ({top.folders[0].name}). Use one sub-folder "
            "per class, or a flat folder of unlabelled images."
        )
    within = [_Inside.of(folder) for folder in top.folders]
    if not (top.images or any(inside.images or inside.folders for inside in within)):
        raise DataError(f"{path} holds no images ({', '.join(sorted(IMAGES))}).")
    for folder, inside in zip(top.folders, within, strict=True):
        if not inside.images:
            raise DataError(_no_class(folder, inside))
    classes = tuple(folder.name for folder in top.folders)
    images = [(file, None) for file in top.images]
    labelled = [(file, label) for label, inside in enumerate(within) for file in inside.images]
    notes = [*_left_aside(path, [top, *within]), *_numbered(classes)]
    return Folder((*images, *labelled), classes, tuple(notes))


def _no_class(folder: Path, inside: _Inside) -> str:
    """Why a sub-folder cannot be a class, and what to do."""
    if inside.folders:
        return (
            f"{folder} holds no images itself but folders ({inside.folders[0].name}). Give the "
            "folder whose sub-folders are the classes, with their images directly inside."
        )
    return (
        f"{folder} holds no images, and classes are numbered by their folders. Remove it if it is "
        "no class, or give it images if it is one."
    )


def _left_aside(path: Path, each: Sequence[_Inside]) -> list[str]:
    """Sentences on what lies there and is not read."""
    deeper = [folder for inside in each[1:] for folder in inside.folders]
    others = [file for inside in each for file in inside.others]
    junk = [file for inside in each for file in inside.junk]
    found = []
    if deeper:
        found.append(f"left aside {_named(path, deeper)}: folders inside classes are not read")
    if others:
        found.append(f"left aside {_named(path, others)}: no images by name, or no files")
    if junk:
        found.append(f"left aside {_named(path, junk)}: hidden, or left by other programs")
    return found


def _named(path: Path, found: Sequence[Path]) -> str:
    first = found[0].relative_to(path)
    return str(first) if len(found) == 1 else f"{first} and {len(found) - 1} more"


def _numbered(classes: Sequence[str]) -> list[str]:
    """A sentence where names are numbers that text sorts otherwise."""
    if not all(name.isdecimal() for name in classes) or sorted(classes, key=int) == list(classes):
        return []
    label = next(i for i, name in enumerate(sorted(classes, key=int)) if name != classes[i])
    return [
        f"class folders are numbers sorted as text, so label {label} is folder "
        f"'{classes[label]}'; if the networks count otherwise, write them alike long: 01, 02, 10"
    ]


def listed(classes: Sequence[str]) -> str:
    """Classes with their labels, the last alone where there are many."""
    each = [f"{label} {name}" for label, name in enumerate(classes)]
    if len(each) <= _SHOWN:
        return ", ".join(each)
    return f"{', '.join(each[: _SHOWN - 1])}, ..., {each[-1]}"


def fingerprint_text(path: Path, images: Sequence[tuple[Path, int | None]]) -> str:
    """What tells a folder of images from others: names and contents.

    Raises:
        DataError: a file name that is no text.
    """
    for file, _ in images:
        if str(file).encode(errors="replace") != os.fsencode(file):
            raise DataError(f"the file name {file.name!r} holds bytes that are no text; rename it.")
    return "\n".join(f"{file.relative_to(path)} {fingerprint(file)}" for file, _ in images)
