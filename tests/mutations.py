"""Files that were changed by accident, and the answers of every command on them."""

from __future__ import annotations

import contextlib
import io
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from offramp import cli

Said = tuple[int, str]


def said(*arguments: object) -> Said:
    """Exit code and standard output of a command, in this process."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", newline=""), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["offramp", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int)
    out.flush()
    return code, out.buffer.getvalue().decode()


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The content with some bytes changed, cut off, doubled or put in."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(changed) + 1)
        how = chance.choice(("bit", "byte", "digit", "cut", "remove", "insert", "double"))
        if how == "bit" and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif how == "byte" and at < len(changed):
            changed[at] = chance.randrange(256)
        elif how == "digit":
            digits = [i for i, byte in enumerate(changed) if 48 <= byte < 58]
            if digits:
                changed[chance.choice(digits)] = chance.randrange(48, 58)
        elif how == "cut":
            del changed[at:]
        elif how == "remove":
            del changed[at : at + chance.randrange(1, 9)]
        elif how == "insert":
            changed[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif how == "double":
            changed[at:at] = changed[at : at + 40]
    return bytes(changed)


@contextlib.contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    """Other content in a file, for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
