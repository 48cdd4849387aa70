"""What takes part in a benchmark: a plan in every form, its reference on every static runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.errors import MissingExtra, NetworkError
from offramp.base.fields import Fields, take
from offramp.core.graph import head, whole
from offramp.export import one_file, write_file, write_folder
from offramp.export.stages import refitted
from offramp.networks import weights
from offramp.plan.plan import Plan
from offramp.runtime import Driver, Engine, Routed, SingleFile, engine_named
from offramp.runtime.engine import Part
from offramp.runtime.format import inputs_named
from offramp.runtime.onnxruntime import engine as onnxruntime
from offramp.runtime.session import BEST, OPTIMIZATIONS
from offramp.siblings.quantising import Quantiser, Scheme

Answer = Callable[[Fields], AnyArray]  # from inputs to answers (n,)
_T = TypeVar("_T")
_CALIBRATION = 128  # examples that int8 scales are taken from, at most
_LOADS = 3
ONE_FILE, STAGE_FILES = "offramp, one file", "offramp, a file per stage"
_FASTEST = onnxruntime(spins=True)  # it runs alone: nobody else needs the core


@dataclass(kw_only=True)
class Contestant:
    """One of those that answer the same requests in turn."""

    name: str
    answer: Answer
    load_s: float | None = None
    file: Path | None = None  # that ONNX Runtime can run by itself
    exact: bool = False  # the reference in fp32, on some engine
    reduced: bool = False  # the reference in int8 or bfloat16
    spent: list[list[float]] = field(default_factory=list)  # passes of requests, seconds


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is entered: a plan, for an engine."""

    plan: Plan
    engine: Engine
    threads: int
    folder: Path  # where its files are written
    x: Fields  # examples, some of which calibrate int8
    missing: dict[str, str] = field(default_factory=dict)  # what is not there, and why

    def contestants(self, thorough: bool) -> Iterator[Contestant]:
        """The plan, then the reference on every static runtime, then the other networks alone."""
        yield self._planned(self.engine)
        plan = self.plan
        name = plan.graph.reference
        reference = alone(plan, name, self.folder)
        for level in OPTIMIZATIONS if thorough else (BEST,):
            runs = onnxruntime(level=level, spins=True)
            yield self._network(f"{name}, {level}", name, reference, runs, exact=True)
        for engine in self._others():
            title = f"{name}, {engine.name}"
            network = partial(self._network, title, name, reference, engine, exact=True)
            yield from self._if_it_opens(engine, network)
        if thorough:
            yield from self._in_other_forms()
            yield from self._other_networks(reference)

    def _if_it_opens(self, engine: Engine, make: Callable[[], Contestant]) -> Iterator[Contestant]:
        """What another engine may lack operators for."""
        try:
            found = make()
        except NetworkError as problem:
            if engine.name == self.engine.name:
                raise
            self.missing[engine.name] = str(problem)
        else:
            yield found

    def _others(self) -> list[Engine]:
        """The engines besides ONNX Runtime: OpenVINO, and the one that the plan is for."""
        found = {} if self.engine.name == _FASTEST.name else {self.engine.name: self.engine}
        try:
            openvino = engine_named("openvino")
            found.setdefault(openvino.name, openvino)
        except MissingExtra as problem:
            self.missing["OpenVINO"] = str(problem)
        return list(found.values())

    def _planned(self, engine: Engine) -> Contestant:
        """The plan as it is shipped to an engine: in one file where branches are skipped."""
        if engine.name != _FASTEST.name:
            return self._routed(engine)
        file = self.folder / "plan.onnx"
        write_file(self.plan, file)
        driver, load_s = _loaded(lambda: SingleFile(file, threads=self.threads))
        return Contestant(name=ONE_FILE, answer=_answer(driver), load_s=load_s, file=file)

    def _routed(self, engine: Engine) -> Contestant:
        stages = self.folder / "stages"
        if not stages.exists():
            write_folder(self.plan, stages)
        driver, load_s = _loaded(lambda: Routed(stages, engine, threads=self.threads))
        return Contestant(name=in_stages(engine), answer=_answer(driver), load_s=load_s)

    def _in_other_forms(self) -> Iterator[Contestant]:
        first = entered(self.engine)
        if first != ONE_FILE:
            yield self._planned(_FASTEST)
        for engine in (engine_named("onnxruntime"), *self._others()):
            if in_stages(engine) != first:
                yield from self._if_it_opens(engine, partial(self._routed, engine))

    def _other_networks(self, reference: Path) -> Iterator[Contestant]:
        """The reference in int8 and bfloat16 on every engine, and the other networks alone."""
        plan, name = self.plan, self.plan.graph.reference
        yield from self._in_int8(name)
        if "OpenVINO" not in self.missing:
            from offramp.runtime.openvino import in_bfloat16

            if half := in_bfloat16():
                title = f"{name}, {half.name}"
                network = partial(self._network, title, name, reference, half, reduced=True)
                yield from self._if_it_opens(half, network)
        for stage in plan.graph.order:
            if stage != name:
                yield self._network(stage, stage, alone(plan, stage, self.folder), _FASTEST)

    def _in_int8(self, name: str) -> Iterator[Contestant]:
        examples = take(self.x, slice(_CALIBRATION))
        try:
            file = _quantised(self.plan, name, self.folder, examples)
        except NetworkError as problem:
            self.missing["int8"] = str(problem)
            return
        for engine in (_FASTEST, *self._others()):
            title = f"{name}, int8{_on(engine)}"
            network = partial(self._network, title, name, file, engine, reduced=True)
            yield from self._if_it_opens(engine, network)

    def _network(
        self,
        name: str,
        stage: str,
        file: Path,
        engine: Engine,
        *,
        exact: bool = False,
        reduced: bool = False,
    ) -> Contestant:
        """A network alone on an engine."""
        part, load_s = _loaded(lambda: Part(stage, file, engine, self.threads))
        read, said = [*part.inputs], next(iter(part.outputs))

        def answer(x: Fields) -> AnyArray:
            found: AnyArray = part(inputs_named(read, x), (said,))[said].argmax(axis=1)
            return found

        kept = file if engine.name == _FASTEST.name else None
        return Contestant(
            name=name, answer=answer, load_s=load_s, file=kept, exact=exact, reduced=reduced
        )


def entered(engine: Engine) -> str:
    """What the plan is called among the contestants, on the engine that it is for."""
    return ONE_FILE if engine.name == _FASTEST.name else in_stages(engine)


def in_stages(engine: Engine) -> str:
    return f"{STAGE_FILES}{_on(engine)}"


def _on(engine: Engine) -> str:
    return "" if engine.name == _FASTEST.name else f", {engine.name}"


def _answer(driver: Driver) -> Answer:
    return lambda x: driver(x).answer


def alone(plan: Plan, stage: str, folder: Path) -> Path:
    """The network of one stage by itself: the file that it came as, or else its parts in one.

    Where the plan refits the stage, so does the file.
    """
    if uncut := _uncut(plan, stage):
        return _mended(plan, stage, uncut, folder)
    path = folder / f"{stage}.alone.onnx"
    certificate = replace(plan.certificate, static_choice=stage)
    weights.write(one_file(replace(plan, tradeoff=None, certificate=certificate)), path)
    return path


def _uncut(plan: Plan, stage: str) -> Path | None:
    """The file that a network came as; None: it is there in parts alone."""
    files = plan.runnable()
    if whole(stage) in files:
        return files[whole(stage)]
    if plan.graph.parts(stage) == (stage, head(stage)) and head(stage) not in files:
        return files[stage]
    return None


def _mended(plan: Plan, stage: str, file: Path, folder: Path) -> Path:
    """A network with the refit of its stage, where there is one."""
    if stage not in plan.refits:
        return file
    path = folder / f"{file.stem}.{stage}.refitted.onnx"
    weights.write(refitted(plan, stage, file), path)
    return path


def _loaded(load: Callable[[], _T]) -> tuple[_T, float]:
    """What `load` gives, and the seconds it takes: the median of a few times."""
    spent = []
    for _ in range(_LOADS):
        start = time.perf_counter()
        found = load()
        spent.append(time.perf_counter() - start)
    return found, float(np.median(spent))


def _quantised(plan: Plan, stage: str, folder: Path, x: Fields) -> Path:
    """A network in int8; its refit stays as it is, as it would in production."""
    uncut = _uncut(plan, stage)
    if uncut is None:
        return _int8(alone(plan, stage, folder), folder, x)
    return _mended(plan, stage, _int8(uncut, folder, x), folder)


def _int8(file: Path, folder: Path, x: Fields) -> Path:
    return Quantiser(file, folder, x)(Scheme(), folder / "int8.onnx")
