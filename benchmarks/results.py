"""Results as JSON beside the machine, the versions and the commit that made them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from offramp.files import write_json
from offramp.measure import machine
from offramp.trace import versions

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"
PACKAGES = ("offramp", "numpy", "scipy", "scikit-learn", "onnxruntime")


def save(name: str, values: Mapping[str, Any], seconds: float) -> Path:
    """Writes results/NAME.json and returns its path."""
    path = RESULTS / f"{name}.json"
    about = {
        "machine": machine(),
        "versions": versions(PACKAGES),
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat("T", "seconds"),
        "seconds": round(seconds, 1),
    }
    write_json(path, {"about": about, **values})
    print(f"{path.relative_to(ROOT.parent)}: {seconds:.0f} s")
    return path


def load(name: str) -> dict[str, Any]:
    """What `save` wrote."""
    value: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return value


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
