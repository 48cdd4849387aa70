"""The formats page names every key that offramp writes, and none that it does not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offramp import OnnxRuntime, Plan, Preprocessing, Trace, fit, open_examples, record
from offramp.answering.committees import Committee
from offramp.answering.refit import Refit
from offramp.command.answers import AnswerFile, stream
from offramp.core.costs import Costs
from offramp.core.graph import Stage
from offramp.core.imports import import_scores
from offramp.export import write_file, write_folder
from offramp.learn.latency import Latency
from offramp.networks.forms import Outputs
from offramp.networks.networks import combine
from offramp.networks.preprocessing import PerNetwork, Resize
from offramp.networks.reading import with_fields
from offramp.plan.asked import Asked
from offramp.plan.fit import fit_each
from offramp.plan.plan import write_plans
from offramp.policies import FAMILIES, policy_to_json
from offramp.recording.record import RecordOptions
from offramp.testing import synthetic
from tests.made import blob_networks, blobs, linear_network
from tests.test_fields import encoder, tables, texts

PAGE = Path(__file__).resolve().parent.parent / "docs" / "formats.md"
HEADING, ROW = re.compile(r"^#+ (.+)$"), re.compile(r"^\| `([^`]+)` \|")
# the keys of these objects are names: of what
NAMED = {
    **dict.fromkeys(("cost", "scores", "exits", "before", "after", "dropped"), ("<stage>",)),
    **dict.fromkeys(("models", "cuts", "weights", "actions", "costs", "refits"), ("<stage>",)),
    **dict.fromkeys(("networks", "recorded_networks", "outputs"), ("<part>",)),
    **dict.fromkeys(("reads", "makes"), ("<tensor>",)),
    "committees": ("<stage>", "<stage>"),
    "biases": ("<stage>",),
    "policies_tried": ("<policy>",),
    "versions": ("<package>",),
    "part_ms": ("<part>", "<rows>"),
    "stop_ms": ("<rows>",),
    "fingerprints": ("<file>",),
    "cost_whole": ("<stage>",),
    "cost_at": ("<batch>",),
    "fields": ("<field>",),
    "observations": ("<stage>",),
}
# what is described elsewhere on the page, and numbers in lists of any depth
WHOLE = (
    "graph",
    "policy",
    "certificate",
    "about",
    "preprocessing.<network>",
    "input.fields.<field>",
)
DEEP = re.compile(
    r"^(models\.<stage>\.(loss|cost|hidden\.(weights|out))"
    r"|(cuts|weights|actions|costs)\.<stage>|refits\.<stage>\.weights)(?=[.\[]|$).*"
)


@cache
def documented() -> Mapping[str, frozenset[str]]:
    """The first column of the tables under each heading."""
    found: dict[str, set[str]] = {}
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if title := HEADING.match(line):
            heading = title[1]
        elif row := ROW.match(line):
            found.setdefault(heading, set()).add(row[1])
    return {heading: frozenset(keys) for heading, keys in found.items()}


def keys(value: Any, path: str = "", named: tuple[str, ...] = ()) -> Iterator[str]:
    """The paths of a JSON value, with `<stage>` and the like for names and [] for items."""
    if path in WHOLE:
        yield path
    elif isinstance(value, dict) and (value or not path):
        for key, inner in value.items():
            step, below = (named[0], named[1:]) if named else (key, NAMED.get(key, ()))
            yield from keys(inner, f"{path}.{step}".lstrip("."), below)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from keys(inner, f"{path}[]")
    elif not isinstance(value, list | dict):
        yield DEEP.sub(r"\1", path)


def written(*values: Any) -> set[str]:
    """The paths of several values, of which each may lack what is optional."""
    return {path for value in values for path in keys(value)}


def agree(heading: str, found: set[str]) -> None:
    known = set(documented()[heading])
    missing = sorted(found - known)
    assert not missing, f"docs/formats.md, '{heading}', lacks {missing}"
    stale = sorted(known - found)
    assert not stale, f"docs/formats.md, '{heading}', names {stale}, which nothing writes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs of arrays and of images, a recorded trace, and plans with all that is optional."""
    made = tmp_path_factory.mktemp("formats")
    networks = combine(blob_networks(made / "onnx"))
    networks.write(made / "graph")
    orders = {"small": tuple("bacd"), "big": tuple("abcd")}
    combine(networks.files, outputs=Outputs(classes=orders)).write(made / "orders")
    pixels = Preprocessing((2, 3), (0.5,), (0.5,))
    heard = replace(
        networks.graph,
        stages=(networks.graph.stages[0], replace(networks.graph.stages[1], hears=("small",))),
    )
    replace(networks, preprocessing=pixels, graph=heard).write(made / "images")
    _several(made / "several-fields")
    x, y = blobs(1500)
    np.savez(made / "data.npz", x=x, y=y)
    named = replace(open_examples(made / "data.npz"), classes=tuple("abcd"))  # type: ignore[type-var]
    heads = replace(networks, taught=np.zeros(1, np.uint64))  # of an example that is not among them
    heads.write(made / "heads")
    given = (heads, OnnxRuntime(networks.files, networks.graph), named)
    with pytest.raises(InterruptedError):
        record(*given, made / "stopped", RecordOptions(), progress=_stop)
    trace = record(
        *given, made / "trace", RecordOptions(sizes=(1, 64), graph_folder=made / "heads")
    )
    priced = replace(trace, costs=_priced(trace.costs))
    times = {1: 1e-3, 64: 2e-2}
    latency = Latency(
        batch=64,
        parts={"small": times, "big": {n: 9 * t for n, t in times.items()}},
        stop={64: 1e-4},
    )
    fit(
        priced, 0.02, networks=networks, prices=latency, policy="margin", refit=True, pool=True
    ).write(made / "full")
    write_plans(fit_each(priced, Asked.of(0.01, 0.02, policy="margin")), made / "several")
    plan = fit(priced, 0.01, networks=networks, policy="learned", confidence=0.8)
    assert plan.routes
    together = {"big": Committee(("small", "big"), (0.5, 1.0), (0.0,) * 4)}
    mended = {"small": Refit(np.ones(()), np.zeros(4))}
    noted = {**plan.info, "notes": ["rows hardly depend on each other"]}
    replace(plan, committees=together, refits=mended, info=noted).write(made / "plan")
    return made


def _several(made: Path) -> None:
    """A graph, a trace, a plan and files of two fields; networks that read each in its way."""
    made.mkdir()
    files = {
        name: encoder(made / f"{name}.onnx", table, "ids", "mask")
        for name, table in zip(("small", "big"), tables(), strict=True)
    }
    fields, y = texts(400)
    arrays: dict[str, Any] = {"ids": fields["input_ids"], "mask": fields["attention_mask"], "y": y}
    np.savez(made / "data.npz", **arrays)
    networks = with_fields(combine(files), {}, made)
    networks.write(made / "graph")
    pixels = Preprocessing((2, 3), (0.5,), (0.5,), resize=Resize(how="squash"))
    replace(networks, preprocessing=PerNetwork({"small": pixels})).write(made / "images")
    runtime = OnnxRuntime(networks.files, networks.graph)
    examples = open_examples(made / "data.npz", fields=networks.fields)
    trace = record(networks, runtime, examples, made / "trace", RecordOptions())
    plan = fit(trace, 0.5, networks=networks, policy="margin", confidence=0.8)
    plan.write(made / "plan")
    write_folder(plan, made / "files")
    write_file(plan, made / "one.onnx")


def _stop(what: str, done: int, total: int) -> None:
    if what == "recording":
        raise InterruptedError


def _priced(costs: Costs) -> Costs:
    """At these costs routing pays."""
    return replace(costs, body={"small": 1.0, "big": 9.0}, whole={})


def manifest(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def test_graphs(folder: Path) -> None:
    names = ("heads", "images", "orders")
    plain = [manifest(folder / name / "graph.json") for name in names]
    several = manifest(folder / "several-fields/images/graph.json")
    (way,) = several["preprocessing"].values()
    alike, each = (
        {**several, "preprocessing": way},
        {**several, "preprocessing": {"<network>": way}},
    )
    file = linear_network(folder / "numbers.onnx", np.ones((6, 1)), [6])
    combine({"numbers": file}, task="regression/2.5").write(folder / "numbers")
    of_numbers = manifest(folder / "numbers/graph.json")
    agree("graph.json", written(*plain, alike, each, of_numbers))


def test_traces(folder: Path) -> None:
    found = manifest(folder / "trace/trace.json")
    begun = manifest(folder / "stopped/trace.json")
    assert not begun["complete"]
    x = np.random.default_rng(0).normal(size=(20, 3))
    np.savez(folder / "scores.npz", labels=x.argmax(axis=1), one=x, other=x, more=np.zeros(3))
    costs = Costs({"one": 1.0, "other": 2.0}, {"one": 0.0, "other": 0.0})
    stages = (Stage("one"), Stage("other"))
    import_scores(folder / "scores.npz", costs, stages=stages).write(folder / "scored")
    imported = manifest(folder / "scored/trace.json")
    noted = {"notes": ["rows hardly depend on each other"]}
    whole = replace(synthetic(20).costs, whole={"large": 20.0})  # as of a network that was cut
    several = manifest(folder / "several-fields/trace/trace.json")
    answered = _answers().manifest()
    agree("trace.json", written(found, begun, imported, noted, whole.to_json(), several, answered))


def _answers() -> Trace:
    """Recorded answers whose costs differ."""
    names = [f"{stage}.{what}" for stage in ("small", "big") for what in ("loss", "seen", "answer")]
    columns = {name: np.arange(20) % 2 for name in names}
    return Trace.of(pa.table({**columns, "small.cost": [1.0] * 20, "big.cost": np.arange(20.0)}))


def test_parts_of_traces(folder: Path) -> None:
    trace = synthetic(20)
    loss = {stage: np.zeros(20) for stage in trace.graph.order}
    replace(trace, loss=loss).write(folder / "with-loss")
    _answers().write(folder / "answers")
    columns = {
        name if "." not in name else f"<stage>.{name.partition('.')[2]}"
        for path in ("trace", "with-loss", "answers")
        for name in pq.read_schema(folder / path / "part-000000.parquet").names
    }
    agree("Columns of a part", columns)


def test_ledgers(folder: Path) -> None:
    lines = (folder / "trace/ledger.jsonl").read_text(encoding="utf-8").splitlines()
    opened, look = json.loads(lines[0]), json.loads(lines[-1])
    assert opened.keys() == {"by", "opened"}
    assert re.fullmatch("[0-9a-f]{16}", opened["opened"])
    assert look.keys() == {"by", "question", "error"}
    agree("ledger.jsonl", written(opened, look))


def test_plans(folder: Path) -> None:
    plan, full = (manifest(folder / name / "plan.json") for name in ("plan", "full"))
    agree("plans.json", written(manifest(folder / "several/plans.json")))
    imported = fit(synthetic(900), 0.05)
    dropped = replace(imported, info={**imported.info, "dropped": {"medium": "it saves nothing"}})
    whole = replace(dropped, costs=replace(dropped.costs, whole={"large": 30.0}))
    whole.write(folder / "imported")
    _each().write(folder / "each")
    several = manifest(folder / "several-fields/plan/plan.json")
    others = [manifest(folder / name / "plan.json") for name in ("imported", "each")]
    agree("plan.json", written(plan, full, several, *others))


@cache
def _each() -> Plan:
    """A plan of costs that differ by example."""
    trace = synthetic(300, stages=("small", "big"))
    costs = {"small": np.full(300, 1.0), "big": np.arange(1.0, 301.0)}
    return fit(Trace.of(trace.scores, trace.labels, costs=costs), 0.2, policy="margin")


@cache
def _fitted(policy: str) -> Plan:
    return fit(synthetic(300, stages=("small", "big")), 0.2, policy=policy, confidence=0.8)


def test_policies() -> None:
    x = np.random.default_rng(0).normal(size=(300, 1))
    said = {"small": x + 0.1, "big": x}
    numbers = Trace.of(said, x, costs={"small": 1, "big": 4}, task="regression/1")
    other = FAMILIES["learned"](numbers, numbers.losses())
    fitted = (_fitted(name).policy for name in FAMILIES)
    agree("The policy", written(*map(policy_to_json, (*fitted, other))))


def test_certificates(folder: Path) -> None:
    recorded = manifest(folder / "plan/plan.json")["certificate"]
    each = _each().certificate.to_json()
    agree("The certificate", written(_fitted("learned").certificate.to_json(), recorded, each))


def test_exported_files(folder: Path) -> None:
    plan = Plan.read(folder / "plan")
    write_file(plan, folder / "one.onnx", dial=True)
    write_folder(plan, folder / "files", dial=True)
    agree("routes.json", written(manifest(folder / "files/routes.json")))
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "one.onnx").metadata_props}
    assert metadata.keys() == {"offramp", "fingerprint"}
    several = onnx.load(folder / "several-fields/one.onnx").metadata_props
    other = next(entry.value for entry in several if entry.key == "offramp")
    about = written(json.loads(metadata["offramp"]), json.loads(other))
    fields = manifest(folder / "several-fields/files/routes.json")["about"]["fields"]
    assert fields == ["ids", "mask"]
    session = onnxruntime.InferenceSession(folder / "one.onnx")
    ends = {"tradeoff", *(output.name for output in session.get_outputs())}
    assert "tradeoff" in {given.name for given in session.get_inputs()}
    agree("What an exported file says of itself", about | ends)


def test_answers(folder: Path) -> None:
    plan = Plan.read(folder / "plan")
    runtime, examples = OnnxRuntime(plan.networks, plan.graph), open_examples(folder / "data.npz")
    with AnswerFile.open(folder / "answers.parquet", scores=True) as file:
        for _, answers in stream(plan, runtime, examples, 512):
            file.write(answers)
    agree("Answers", set(pq.read_schema(folder / "answers.parquet").names))


def test_a_trace_reads_what_the_page_says(folder: Path) -> None:
    assert Trace.read(folder / "trace").examples == 1500
