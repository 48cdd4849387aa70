"""Settings that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from offramp.command import demo
from offramp.study.bench import Contest

# fixed seeds, and no clock: the machines that run this are shared
settings.register_profile("steady", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def journey(tmp_path_factory: pytest.TempPathFactory) -> tuple[demo.Demo, Path, list[str]]:
    """The demo, run once for all tests: what it found, its folder, and the steps that it told."""
    out = tmp_path_factory.mktemp("demo") / "offramp-demo"
    steps: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "QUICK", Contest(1, thorough=False))  # nobody reads these numbers
        found = demo.journey(out, progress=lambda what, done, total: steps.append(what))
    return found, out, steps
