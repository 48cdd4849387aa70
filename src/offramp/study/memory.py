"""The memory that a network takes, measured in a process of its own: this module run as a program.

Usage: python -m offramp.study.memory NETWORK.onnx REQUEST.npz THREADS
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.fields import Fields, fields_of


def peak_mb(file: Path | None, x: AnyArray | Fields, threads: int) -> float | None:
    """How much more memory a process takes at most, to load a file and run it on a request.

    None: there is no file, or the system counts in other units than Linux does.
    """
    if file is None or sys.platform != "linux":
        return None
    with TemporaryDirectory() as folder:
        request = Path(folder) / "x.npz"
        np.savez(request, **fields_of(x))  # type: ignore[arg-type]
        given = [sys.executable, "-m", __name__, str(file), str(request), str(threads)]
        done = subprocess.run(given, capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def main(file: str, request: str, threads: str) -> None:
    import onnxruntime  # before memory is looked at: only the network is charged for

    before = _peak_kb()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = onnxruntime.InferenceSession(file, options)
    with np.load(request, allow_pickle=False) as held:
        fields = dict(held)
    names = [value.name for value in session.get_inputs()]
    given = fields if len(names) > 1 else {names[0]: next(iter(fields.values()))}
    for _ in range(3):
        session.run(None, {name: given[name] for name in names})
    print((_peak_kb() - before) / 1024)


def _peak_kb() -> int:
    """Of this process alone: getrusage tells of the one that started it as well."""
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(*sys.argv[1:])
