"""Outputs take their name whole, and only over what the same command wrote."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from offramp.base import files, outputs
from offramp.base.errors import GraphError, InputError, TraceError
from offramp.base.manifests import kind_of_folder, write_manifest
from offramp.base.outputs import check_output, new_folder, only_one
from offramp.command.answers import harmless
from offramp.core.graph import Graph
from offramp.core.rows import RowFacts
from offramp.core.trace import Trace, assemble
from offramp.networks.networks import Networks
from offramp.testing import synthetic
from tests.made import blob_networks, blobs, rehashed
from tests.mutations import said

KIND = kind_of_folder("graph")


def folder(path: Path, value: int) -> None:
    """A folder of offramp's, that says a number."""
    with new_folder(path, KIND, force=True) as new:
        (new / "inside").mkdir()
        (new / "inside" / "file").write_text(str(value))
        write_manifest(new, "graph", {"version": 1, "value": value})


def value_of(path: Path) -> Any:
    return json.loads((path / "graph.json").read_text())["value"]


# ------------------------------------------------------------------ what may be replaced


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of every kind of output."""
    made = tmp_path_factory.mktemp("kinds")
    networks = [f"{s}={f}" for s, f in blob_networks(made / "onnx").items()]
    x, y = blobs(400)
    np.savez(made / "data.npz", x=x, y=y)
    for name in COMMANDS:
        code, text = said(*command(made, name, made / name, networks))
        assert code == done(text), name
    return made


def done(text: str) -> int:
    """The exit code of a command that did its work and said so: what a fit says, the clock says."""
    return int("keep the reference" in text)


COMMANDS = (
    "graph",
    "trace",
    "plan",
    "stages",
    "one.onnx",
    "answers.parquet",
    "report.html",
    "card.md",
)


def command(made: Path, name: str, out: Path, networks: list[str]) -> list[object]:
    data = ["--data", made / "data.npz"]
    commands: dict[str, list[object]] = {
        "graph": ["graph", *networks],
        "trace": ["record", made / "graph", *data],
        "plan": ["fit", made / "trace", "--budget", 0.3, "--policy", "margin"],
        "stages": ["export", made / "plan", "--stages"],
        "one.onnx": ["export", made / "plan"],
        "answers.parquet": ["run", made / "plan", *data],
        "report.html": ["report", made / "plan"],
        "card.md": ["card", made / "plan"],
    }
    return [*commands[name], "--out", out]


def copy(source: Path, target: Path) -> Path:
    return Path((shutil.copytree if source.is_dir() else shutil.copyfile)(source, target))


def test_force_replaces_only_the_same_kind(kinds: Path, tmp_path: Path) -> None:
    networks = [f"{s}={kinds}/onnx/{s}.onnx" for s in ("small", "big")]
    for name in COMMANDS:
        for other in COMMANDS:
            out = copy(kinds / other, tmp_path / "out")
            code, text = said(*command(kinds, name, out, networks), "--force")
            assert code == (done(text) if name == other else 2), (name, other)
            shutil.rmtree(out) if out.is_dir() else out.unlink()
    assert not list(tmp_path.iterdir())


def test_force_replaces_no_input(kinds: Path, tmp_path: Path) -> None:
    made = copy(kinds, tmp_path / "made")
    copy(made / "plan", made / "graph" / "plan")
    answers, fit = made / "answers.parquet", ["fit", made / "trace", "--budget", 0.1]
    for arguments in (
        ["graph", f"a={made}/graph", "--out", made / "graph"],
        [*fit, "--graph", made / "graph", "--out", made / "graph" / "plan"],
        ["report", made / "graph" / "plan", "--out", made / "graph"],
        ["record", made / "graph", "--data", made / "trace", "--out", made / "trace"],
        ["run", made / "plan", "--data", answers, "--out", answers],
    ):
        before = sorted(p for p in made.rglob("*"))
        assert said(*arguments, "--force")[0] == 2, arguments
        assert sorted(p for p in made.rglob("*")) == before


def test_force_replaces_no_folder_with_other_files(tmp_path: Path) -> None:
    folder(tmp_path / "out", 1)
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="other files"):
        folder(tmp_path / "out", 2)
    (tmp_path / "out" / "thesis.txt").rename(tmp_path / "out" / "ledger.jsonl")
    folder(tmp_path / "out", 2)
    assert value_of(tmp_path / "out") == 2
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(InputError, match="not written"):
        folder(tmp_path / "link", 3)


@pytest.mark.parametrize("name", ["", ".", "..", "a/.."])
def test_an_output_has_a_name(name: str) -> None:
    with pytest.raises(InputError, match="no name"):
        check_output(Path(name), True, KIND)


# ---------------------------------------------------------------- old or new at every moment


@pytest.mark.parametrize("moment", range(4))
def test_old_or_new_is_there_whenever_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Killed before each step of taking the name, it leaves the old or the new, and no other."""
    out, steps = tmp_path / "out", [moment]
    folder(out, 1)

    class Killed(BaseException):
        pass

    def dying(name: str, do: Any) -> None:
        def step(*arguments: Any) -> Any:
            steps[0] -= 1
            if steps[0] < 0:
                raise Killed
            return do(*arguments)

        monkeypatch.setattr(name, step)

    def gone(*_: object) -> None:
        """A process that was killed removes nothing, and rolls nothing back."""

    dying("offramp.base.outputs.sync_tree", files.sync_tree)
    dying("offramp.base.outputs.os.rename", os.rename)
    dying("offramp.base.outputs.sync", files.sync)
    monkeypatch.setattr("offramp.base.files.remove", gone)
    with pytest.raises(Killed):
        folder(out, 2)
    monkeypatch.undo()
    outputs.restore(out)
    assert value_of(out) in (1, 2)
    folder(out, 3)  # and goes on from there
    assert value_of(out) == 3
    assert not list(tmp_path.glob(".*.old"))


def test_a_failed_exchange_is_rolled_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "out", 1)
    rename, calls = os.rename, [0]

    def failing(source: Any, target: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr("offramp.base.outputs.os.rename", failing)
    with pytest.raises(Exception, match="No space"):
        folder(tmp_path / "out", 2)
    assert value_of(tmp_path / "out") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def overtaken(out: Path, force: bool) -> None:
    """A folder that another command writes while it is written."""
    with new_folder(out, KIND, force=force) as slow:
        (slow / "mine").write_text("slow")
        folder(out, 2)


def test_what_another_command_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for first in (False, True):
        if first:
            folder(out, 1)
        with pytest.raises(InputError, match="meanwhile"):
            overtaken(out, force=first)
        assert value_of(out) == 2
        shutil.rmtree(out)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_being_written_is_not_replaced(tmp_path: Path) -> None:
    folder(tmp_path / "out", 1)
    with only_one(tmp_path / "out"), pytest.raises(InputError, match="another command"):
        folder(tmp_path / "out", 2)
    assert value_of(tmp_path / "out") == 1


# ------------------------------------------------------------------------- what is read


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    files = blob_networks(tmp_path / "onnx")
    Networks(Graph.chain(files), files).write(tmp_path / "graph")
    return tmp_path / "graph"


def test_a_part_is_a_name_and_never_a_path(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "victim.onnx").write_bytes((graph / "stages" / "small.onnx").read_bytes())
    manifest = graph / "graph.json"
    for part in ("small.x/../../../victim", "small./../../../victim", "small.x", "nobody", "/"):
        value = json.loads(manifest.read_text())
        print_ = value["networks"]["small"]
        name = f"stages/{part}.onnx"
        value["networks"][part] = value["fingerprints"][name] = print_
        before = manifest.read_bytes()
        rehashed(manifest, value)
        with pytest.raises(GraphError):
            Networks.read(graph)
        manifest.write_bytes(before)
    Networks.read(graph)


def test_links_are_not_followed_out_of_a_folder(graph: Path, tmp_path: Path) -> None:
    file = graph / "stages" / "small.onnx"
    file.rename(tmp_path / "elsewhere.onnx")
    file.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(GraphError, match="link out of its folder"):
        Networks.read(graph)
    file.unlink()
    (tmp_path / "elsewhere.onnx").rename(graph / "here.onnx")
    file.symlink_to(graph / "here.onnx")
    Networks.read(graph)


def test_a_pipe_is_no_file(graph: Path, tmp_path: Path) -> None:
    """Reading one waits for a writer, for ever."""
    for name in ("graph/stages/small.onnx", "graph/graph.json", "d.npz", "d.parquet"):
        (tmp_path / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name)
        data = tmp_path / name if name.startswith("d") else tmp_path / "none.npz"
        out = ["--out", tmp_path / "out"]
        assert said("record", tmp_path / "graph", "--data", data, *out)[0] == 2
        assert said("graph", f"a={tmp_path / name}", *out)[0] == 2
        assert said("import", tmp_path / name, "--cost", "a=1", *out)[0] == 2
        assert said("exits", tmp_path / name, "--list")[0] == 2


def test_ids_are_unique() -> None:
    trace = synthetic(50)
    ids = np.arange(50)
    ids[7] = 3
    with pytest.raises(TraceError, match="the id 3 is there twice"):
        assemble(trace.graph, trace.costs, trace.scores, facts=RowFacts(ids=ids))


def test_a_part_that_the_manifest_does_not_list_is_no_part(tmp_path: Path) -> None:
    synthetic(50).write(tmp_path / "t")
    shutil.copy(tmp_path / "t" / "part-000000.parquet", tmp_path / "t" / "part-000001.parquet")
    with pytest.raises(TraceError, match="does not list"):
        Trace.read(tmp_path / "t")


# -------------------------------------------------------------------------- how it ends


def ended(made: Path, *arguments: object, source: str = "", stop: int = 0) -> tuple[int, str]:
    """Exit code and standard error of a command in a process of its own, which gets a signal."""
    code = f"""
import os, signal, sys
from offramp import cli
sys.argv = ["offramp", *{[str(a) for a in arguments]!r}]
def send(*_): os.kill(os.getpid(), {stop})
{source}
cli.main()
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=made
    )
    return found.returncode, found.stderr


SENDS = "from offramp.command.answers import AnswerFile; AnswerFile.write = send"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_ended_says_so_and_tidies_up(
    kinds: Path, tmp_path: Path, number: int, code: int
) -> None:
    run = ["run", kinds / "plan", "--data", kinds / "data.npz", "--out", tmp_path / "a.parquet"]
    found, says = ended(tmp_path, *run, source=SENDS, stop=number)
    assert found == code
    assert "nothing is half-written" in says
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe_is_not_do_not_route(kinds: Path) -> None:
    arguments = ["run", str(kinds / "plan"), "--data", str(kinds / "data.npz"), "--batch", "1"]
    command = [sys.executable, "-m", "offramp.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
        assert process.wait() == 141


def test_a_loss_that_exits_does_not_end_the_command(
    kinds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaving.py").write_text(
        "import sys\ndef leave(scores, labels):\n    sys.exit(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    fit = ["fit", kinds / "trace", "--budget", 0.1, "--out", tmp_path / "p"]
    assert said(*fit, "--loss", "leaving:leave")[0] == 2


def test_a_confidence_that_no_test_reaches_is_refused(kinds: Path, tmp_path: Path) -> None:
    fit = ["fit", kinds / "trace", "--budget", 0.1, "--out", tmp_path / "p"]
    assert said(*fit, "--confidence", "0.99999999999999")[0] == 2


# --------------------------------------------------------------------------------- CSV


def test_no_cell_is_a_formula() -> None:
    names = ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "a=1", "", "ü"]
    table = pa.table({"id": names, "cost": [-float(i) for i in range(len(names))]})
    text = io.BytesIO()
    pa.csv.write_csv(harmless(table), text)
    rows = list(csv.reader(io.StringIO(text.getvalue().decode(), newline="")))[1:]
    assert [row[0].lstrip("'") for row in rows] == names
    assert not [row for row in rows if row[0][:1] in tuple("=+-@\t\r") and row[0]]
    assert [float(row[1]) for row in rows] == [-float(i) for i in range(len(names))]
