"""One network in, one certified file out: copies, recording, policy, certificate, clock, page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from offramp._version import __version__
from offramp.base.arrays import AnyArray
from offramp.base.checked import checked
from offramp.base.errors import DataError, InputError, MissingExtra, TraceError
from offramp.base.fields import Fields, joined
from offramp.base.files import remove, write_json
from offramp.base.progress import Progress, silent
from offramp.core.trace import Trace
from offramp.export import write_file, write_folder
from offramp.networks.batches import Without
from offramp.networks.data import Examples
from offramp.networks.networks import Networks
from offramp.networks.preprocessing import Preprocessing
from offramp.networks.weights import network_fingerprint
from offramp.optimizing.journal import Journal
from offramp.optimizing.outcome import Fastest, Optimized, fastest_of_each
from offramp.plan.asked import Asked, Promise
from offramp.plan.fit import fit_each
from offramp.plan.plan import Plan
from offramp.recording.pricing import Requests, at_request_times
from offramp.recording.record import RecordOptions, record
from offramp.report import report_inputs, write_report
from offramp.runtime import Stages
from offramp.siblings import SiblingOptions, make
from offramp.siblings.examples import FEWEST_HELD_OUT, MOST_HELD_OUT
from offramp.study.bench import EXAMPLES, REQUESTS, bench
from offramp.study.contestants import ONE_FILE

SIZES = (1, 64)  # examples of a request, that plans are timed at in any case
_COPIES, _TAUGHT = 0.25, 0.4  # of the examples: make copies, or teach them as well
_MAKING = 0.6  # of the time: for copies
_RECORDING = 0.5  # of what is left then
_ROWS = 64  # examples per call while recording
_LEAST = 200  # examples that teach and certify
_FEWEST = 600  # examples to record, however short the time


@checked
def optimize(
    networks: str | Path | Mapping[str, Path],
    examples: Examples,
    promise: Promise,
    out: str | Path,
    options: SiblingOptions | None = None,
    *,
    further: Examples | None = None,
    preprocessing: Preprocessing | None = None,
    progress: Progress | None = None,
) -> Optimized:
    """Makes cheap copies, learns who decides what, certifies it, times it, and writes one file.

    A part of the examples, drawn once, makes and chooses copies; of the others, some teach the
    policy and the rest certifies. A run that was ended goes on with the step in hand.

    Args:
        networks: an ONNX file with one input (batch, ...) and scores (batch, classes), or several
            by name, the reference last.
        examples: labelled, unless the promise is `unlabelled`; some thousands.
        promise: one budget, and how sure it is.
        out: folder of the plan, the file, the page, and of what they were made of.
        options: of the copies; `minutes` bounds the whole. Copies learn where `epochs` says so.
        further: examples that copies learn from, without labels.
        preprocessing: how examples are read.
        progress: called with what is done, how much of it, and how much there is.

    Raises:
        InputError: `out` is taken, or a network or the examples cannot be used.
        DataError, TraceError: too few examples.
    """
    options = options or SiblingOptions()
    if len(promise.budgets) != 1:
        raise InputError("optimize takes one budget.")
    files = Path(networks) if isinstance(networks, str) else networks
    given = _Given(files, examples, further, preprocessing)
    _check_examples(examples, promise, options)
    journal = Journal.opened(Path(out), given.question(promise, options))
    return _Run(given, promise, options, journal, progress or silent).all()


def _check_examples(examples: Examples, promise: Promise, options: SiblingOptions) -> None:
    """Raises DataError where it shows before anything is run that they will not do."""
    needed = options.calibrate + FEWEST_HELD_OUT + _LEAST
    if examples.examples < needed:
        raise DataError(
            f"{examples.examples} examples are too few: {options.calibrate + FEWEST_HELD_OUT} make "
            f"and choose copies, and others must teach and certify. Give {needed} or more; half a "
            "point takes thousands."
        )
    first = next((batch for batch in examples.batches(_ROWS) if len(batch)), None)
    if first is not None and first.labels is None and not promise.unlabelled:
        raise DataError(
            "these examples have no labels. Give labelled ones, or promise that few answers change "
            "instead: --unlabelled."
        )


@dataclass(frozen=True)
class _Given:
    networks: Path | Mapping[str, Path]
    examples: Examples
    further: Examples | None
    preprocessing: Preprocessing | None

    def question(self, promise: Promise, options: SiblingOptions) -> dict[str, Any]:
        """What tells a run from others."""
        named = {} if isinstance(self.networks, Path) else self.networks
        files = [self.networks] if isinstance(self.networks, Path) else [*named.values()]
        examples = (self.examples, self.further)
        return {
            "offramp": __version__,
            "networks": [network_fingerprint(file) for file in files],
            "names": [*named],
            "examples": [each.fingerprint for each in examples if each is not None],
            "promise": asdict(promise),
            "options": asdict(options),
            "preprocessing": self.preprocessing and self.preprocessing.to_json(),
        }


class _Run:
    """The steps, in their order."""

    def __init__(
        self,
        given: _Given,
        promise: Promise,
        options: SiblingOptions,
        journal: Journal,
        tell: Progress,
    ) -> None:
        self.given, self.promise, self.options = given, promise, options
        self.journal, self.tell = journal, tell
        self.out = journal.folder

    def all(self) -> Optimized:
        siblings = self.journal.step("copies", self._copies)
        networks = Networks.read(self.out / "graph")
        rest = self._rest(networks)
        recorded = self.journal.step("recording", lambda: self._recorded(networks, rest, siblings))
        certificate = self.journal.step("plan", self._planned)
        plan = Plan.read(self.out / "plan")
        clock = self.journal.step("clock", lambda: self._timed(plan, rest))
        page = self.journal.step("files", lambda: self._written(plan, clock))
        return Optimized(
            folder=self.out,
            siblings=siblings,
            certificate=certificate,
            plan=plan,
            rows=[Fastest(**row) for row in clock],
            notes=[*recorded, *page],
            seconds=self.journal.seconds,
        )

    def _copies(self) -> dict[str, Any]:
        """Cheap copies as stages, in `graph`."""
        given, folder = self.given, self.out / "copies"
        folder.mkdir(exist_ok=True)
        found = make(
            given.networks,
            given.examples,
            self._making(),
            folder,
            self.tell,
            further=given.further,
            preprocessing=given.preprocessing,
        )
        found.networks.write(self.out / "graph", force=True)
        remove(folder)
        return found.to_json()

    def _making(self) -> SiblingOptions:
        """As asked, with a share of the examples and of the time."""
        options, total = self.options, self.given.examples.examples
        taught = options.epochs > 0 and self.given.further is None
        least, most = options.calibrate + FEWEST_HELD_OUT, options.calibrate + MOST_HELD_OUT
        share = int((_TAUGHT if taught else _COPIES) * total)
        drawn = max(least, share if taught else min(most, share))
        minutes = options.minutes and options.minutes * _MAKING
        return replace(options, drawn=options.drawn or drawn, minutes=minutes)

    def _rest(self, networks: Networks) -> Without:
        """The examples that neither made nor chose copies."""
        taught = np.empty(0, np.uint64) if networks.taught is None else networks.taught
        return Without(source=self.given.examples, hashes=taught)

    def _recorded(
        self, networks: Networks, rest: Without, siblings: Mapping[str, Any]
    ) -> list[str]:
        """Every stage on every other example, in `trace`; says where time was short."""
        most, notes = self._fitting(rest.examples, networks, siblings), []
        if most < rest.examples:
            notes = [
                f"there was time to record {most} of {rest.examples} examples; with more, more can "
                "be certified: give more --minutes."
            ]
        if not _whole(self.out / "trace"):  # else it ended before the journal said so
            self._record(networks, replace(rest, most=most))
        return notes

    def _record(self, networks: Networks, examples: Examples) -> None:
        threads = self.options.threads
        options = RecordOptions(
            batch=_ROWS,
            threads=threads,
            sizes=tuple(sorted({self.options.batch, _ROWS})),
            graph_folder=self.out / "graph",
        )
        runtime = Stages(networks.files, networks.graph, threads=threads)
        record(networks, runtime, examples, self.out / "trace", options, progress=self.tell)

    def _fitting(self, total: int, networks: Networks, siblings: Mapping[str, Any]) -> int:
        """How many examples can be recorded in time."""
        if self.options.minutes is None:
            return total
        left = 60 * self.options.minutes - self.journal.seconds["copies"]  # as when it goes on
        tried = siblings["tried"]
        each = sum(tried[stage]["cost"] for stage in networks.graph.order)
        return min(total, max(_FEWEST, int(_RECORDING * left / each)))

    def _planned(self) -> dict[str, Any]:
        """The policy and its certificate, in `plan`."""
        trace, networks = Trace.read(self.out / "trace"), Networks.read(self.out / "graph")
        asked = Asked(promise=self.promise)
        if len(networks.graph.order) > 1:
            requests = Requests([self.options.batch], self.options.threads, "onnxruntime")
            asked = at_request_times(trace, asked, networks, requests)
        (plan,) = fit_each(trace, asked, networks, self.tell)
        plan.write(self.out / "plan", force=True)
        return plan.certificate.to_json()

    def _timed(self, plan: Plan, rest: Without) -> list[dict[str, Any]]:
        """Everything on the clock, in `bench.json`."""
        sizes = sorted({*SIZES, self.options.batch})
        x, y = _last(rest, max(EXAMPLES, REQUESTS * max(sizes)))
        sizes = [size for size in sizes if size <= len(next(iter(x.values())))]
        benches = [
            bench(plan, x, y, batch=size, threads=self.options.threads, progress=self.tell)
            for size in sizes
        ]
        write_json(self.out / "bench.json", [found.to_json() for found in benches])
        return [asdict(row) for found in benches for row in fastest_of_each(found)]

    def _written(self, plan: Plan, clock: Sequence[Mapping[str, Any]]) -> list[str]:
        """The plan as one file, as a file per stage where that is faster, and a page."""
        self.tell("writing files and the page", 0, 1)
        write_file(plan, self.out / "model.onnx", force=True)
        notes, batch = [], self.options.batch
        for row in clock:
            if row["what"] == "plan" and row["batch"] == batch and row["name"] != ONE_FILE:
                write_folder(plan, self.out / "stages", force=True)
                notes.append(
                    f"at batch {batch} the plan is fastest as {self.out / 'stages'}: {row['name']}."
                )
        parts = [self.out / name for name in ("trace", "plan", "bench.json")]
        try:
            write_report(self.out / "report.html", report_inputs(parts), force=True)
        except MissingExtra as problem:
            notes.append(f"no report.html: {problem}")
        return notes


def _whole(trace: Path) -> bool:
    try:
        Trace.read(trace)
    except TraceError:
        return False
    return True


def _last(examples: Examples, wanted: int) -> tuple[Fields, AnyArray | None]:
    """Some examples as networks read them, the last that there are, and their labels."""
    start = max(0, examples.examples - 2 * wanted) // _ROWS * _ROWS
    batches = [batch.whole() for batch in examples.batches(_ROWS, start) if len(batch)]
    if not batches:
        raise DataError("none of the examples can be read: there is nothing to time.")
    labels: Sequence[AnyArray] = [b.labels for b in batches if b.labels is not None]
    known = np.concatenate(labels)[-wanted:] if len(labels) == len(batches) else None
    fields = joined([batch.fields for batch in batches])
    return {name: values[-wanted:] for name, values in fields.items()}, known
