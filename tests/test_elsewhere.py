"""An exported file in Node and in a browser answers as it does in Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from offramp.base.arrays import FloatArray
from offramp.base.fields import Fields, fields_of
from offramp.exits import ExitOptions, add_exits
from offramp.export import write_file
from offramp.networks.data import open_examples
from offramp.networks.networks import combine
from offramp.plan.plan import Plan
from offramp.runtime import SingleFile
from tests.made import deep_network, hard_blobs
from tests.test_drivers import planned
from tests.test_fields import texts, two_encoders

JS = Path(__file__).parent / "js"
REQUIRED = "OFFRAMP_REQUIRE_JS"  # set: what is missing fails instead of being skipped
TRADEOFFS = (None, 3.0)
Answers = list[dict[str, list[float]]]


def missing(what: str) -> None:
    if os.environ.get(REQUIRED):
        pytest.fail(f"{what}; {REQUIRED} is set")
    pytest.skip(what)


def program(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        missing(f"there is no {' or '.join(names)} here")
    assert found is not None
    return found


def package(name: str) -> None:
    if not (JS / "node_modules" / name).is_dir():
        missing(f"{name} is not installed: cd tests/js && npm install --ignore-scripts")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network before one with exits and committees, in one file with a dial, and requests."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name, examples, seed in (("train", 1500, 1), ("test", 1600, 2)):
        x, y = hard_blobs(examples, seed)
        np.savez(folder / f"{name}.npz", x=x, y=y)
    big, small = deep_network(folder / "big.onnx", 3), deep_network(folder / "small.onnx", 1)
    examples_ = open_examples(folder / "train.npz")
    add_exits(big, examples_, ExitOptions(at=["hidden1"]), folder / "e").networks.write(
        folder / "exits"
    )
    networks = combine({"small": small, "big": folder / "exits"})
    plan: Plan = planned(networks, folder / "case").plan
    write_file(plan, folder / "plan.onnx", dial=True)
    (folder / "requests.json").write_text(json.dumps([request(*r) for r in requests()]))
    return folder


def requests() -> Iterator[tuple[FloatArray, float | None]]:
    """Batches of every size, none and one among them, at two tradeoffs."""
    x = hard_blobs(100, 3)[0]
    for rows in (0, 1, 7, 64):
        for tradeoff in TRADEOFFS:
            yield x[:rows], tradeoff


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks of two inputs each, in one file with a dial, and requests."""
    folder = tmp_path_factory.mktemp("encoders")
    write_file(two_encoders(folder), folder / "plan.onnx", dial=True)
    (folder / "requests.json").write_text(json.dumps([request(*r) for r in asked()]))
    return folder


def asked() -> Iterator[tuple[Fields, float | None]]:
    fields, _ = texts(64, seed=7)
    for rows in (0, 1, 7, 64):
        for tradeoff in TRADEOFFS:
            yield {name: values[:rows] for name, values in fields.items()}, tradeoff


def request(x: FloatArray | Fields, tradeoff: float | None) -> dict[str, Any]:
    fields = {
        name: {"type": str(value.dtype), "shape": value.shape, "values": value.ravel().tolist()}
        for name, value in fields_of(x).items()
    }
    return {"fields": fields, "tradeoff": tradeoff}


def check(said: str, folder: Path, requests: Iterable[tuple[Any, float | None]]) -> None:
    found: Answers = json.loads(said)
    here = SingleFile(folder / "plan.onnx")
    used = set()
    for answers, (x, tradeoff) in zip(found, requests, strict=True):
        expected = here(x, tradeoff)
        assert answers["answer"] == expected.answer.tolist()
        assert answers["stage"] == expected.position.tolist()
        np.testing.assert_allclose(answers["cost"], expected.cost, rtol=1e-5)
        np.testing.assert_allclose(answers["scores"], expected.scores.ravel(), atol=1e-4)
        used |= set(expected.stage)
    assert len(used) > 1  # else equality would say little


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_in_node(folder: Path) -> None:
    node = program("node")
    package("onnxruntime-node")
    said = run(node, str(JS / "node.mjs"), str(folder / "plan.onnx"), str(folder / "requests.json"))
    check(said, folder, requests())


def test_several_fields_in_node(encoders: Path) -> None:
    node = program("node")
    package("onnxruntime-node")
    files = (str(encoders / "plan.onnx"), str(encoders / "requests.json"))
    check(run(node, str(JS / "node.mjs"), *files), encoders, asked())


class Pages(SimpleHTTPRequestHandler):
    """Serves the scripts under /js and what a test made under /made."""

    def __init__(self, *given: Any, made: Path) -> None:
        self.roots = {"js": JS, "made": made}
        super().__init__(*given)

    def translate_path(self, path: str) -> str:
        root, _, rest = path.partition("?")[0].lstrip("/").partition("/")
        return str(self.roots.get(root, JS) / rest)

    def log_message(self, *given: Any) -> None:
        """Says nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of the scripts and of what a test made in a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, made=folder))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def in_a_browser(folder: Path) -> str:
    node, browser = program("node"), program("chromium", "chromium-browser", "google-chrome")
    package("onnxruntime-web")
    package("playwright-core")
    with served(folder) as address:
        return run(node, str(JS / "browser.mjs"), browser, f"{address}/js/page.html")


def test_in_a_browser(folder: Path) -> None:
    check(in_a_browser(folder), folder, requests())


def test_several_fields_in_a_browser(encoders: Path) -> None:
    check(in_a_browser(encoders), encoders, asked())
