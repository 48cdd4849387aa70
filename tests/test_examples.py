"""The examples run: exits beyond images, and an engine of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import engine, tokens, vectors
from offramp.runtime import Engine
from offramp.testing import EngineLaws


def test_vectors(tmp_path: Path) -> None:
    found = vectors.run(tmp_path, 1500)
    assert found.speedup > 1
    assert found.kept != "no"


def test_tokens_with_padding(tmp_path: Path) -> None:
    found = tokens.run(tmp_path, examples=3000, epochs=5)
    assert sum(found.exits.values()) > 0.999
    assert found.kept != "no"


class TestAnEngineOfOnesOwn(EngineLaws):
    @pytest.fixture
    def engine(self) -> Engine:
        return engine.REFERENCE


def test_an_engine_of_ones_own_runs_everything(tmp_path: Path) -> None:
    assert len(set(engine.run(tmp_path))) > 1
