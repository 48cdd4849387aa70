"""Package, changelog and metadata name one version; a tag is checked by scripts/check-package."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import offramp

CHANGELOG = Path(__file__).resolve().parent.parent / "CHANGELOG.md"
HEADING = re.compile(r"^## (\d+\.\d+\.\d+), (unreleased|\d{4}-\d{2}-\d{2})$", re.MULTILINE)


def test_the_newest_entry_of_the_changelog_is_the_version_of_the_package() -> None:
    text = CHANGELOG.read_text(encoding="utf-8")
    entries = HEADING.findall(text)
    assert len(entries) == len(re.findall("^## ", text, re.MULTILINE))
    assert entries[0][0] == offramp.__version__
    assert [state for _, state in entries[1:] if state == "unreleased"] == []


def test_the_installed_package_is_of_the_version_of_the_source() -> None:
    assert version("offramp") == offramp.__version__
