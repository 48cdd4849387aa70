"""The examples run: exits beyond images."""

from __future__ import annotations

from pathlib import Path

from examples import tokens, vectors


def test_vectors(tmp_path: Path) -> None:
    found = vectors.run(tmp_path, 1500)
    assert found.speedup > 1
    assert found.kept != "no"


def test_tokens_with_padding(tmp_path: Path) -> None:
    found = tokens.run(tmp_path, examples=3000, epochs=5)
    assert sum(found.exits.values()) > 0.999
    assert found.kept != "no"
