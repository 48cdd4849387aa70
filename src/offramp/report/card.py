"""A model card in Markdown: what those must know who are handed a plan."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from offramp.base.errors import InputError
from offramp.base.files import fingerprint, read_bytes, storage
from offramp.base.outputs import OutputKind, new_output
from offramp.core.tasks import DISAGREEMENT, is_own
from offramp.plan.notes import notes
from offramp.plan.plan import Plan
from offramp.policies import policy_to_json
from offramp.promise.certify import KEEP
from offramp.report import sentences
from offramp.report.page import plan_facts

_MARK = b"<!-- a model card by offramp -->"
_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~])")  # what Markdown would read as its own


def _is_card(path: Path) -> bool:
    try:
        return read_bytes(path, InputError).startswith(_MARK)
    except InputError:
        return False


CARD = OutputKind("a model card", _is_card)


def card(plan: Plan, name: str = "plan") -> str:
    """The model card of `plan`, in Markdown.

    Args:
        plan: whose promise and costs it tells.
        name: what the plan is called, and its folder in the commands that check it.
    """
    parts = (
        _head(plan, name),
        _running(plan),
        _promised(plan),
        _costs(plan),
        _stops(plan),
        _untested(plan),
        _check(plan, name),
        _origin(plan),
    )
    return "\n".join(line for part in parts for line in [*part, ""]).rstrip() + "\n"


def write_card(plan: Plan, path: Path, name: str = "plan", *, force: bool = False) -> None:
    """Writes the card of `plan`, whole or not at all.

    Raises:
        InputError: `path` is taken; with `force`, by something else than a card.
        StorageError: it cannot be written.
    """
    text = card(plan, name)
    with new_output(path, CARD, force=force) as written, storage(path):
        written.write_text(text, encoding="utf-8", errors="backslashreplace")


def plain(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    line = _SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _head(plan: Plan, name: str) -> Iterator[str]:
    yield _MARK.decode()
    yield ""
    yield f"# {plain(name)}"
    yield ""
    yield plain(sentences.lead(plan, None))


def _running(plan: Plan) -> Iterator[str]:
    graph, running = plan.graph, plan.running.graph
    yield "## What runs"
    yield ""
    policy = policy_to_json(plan.policy)["kind"]
    how = (
        f"After each stage the policy '{policy}' decides whether its answer is returned, or which "
        f"stage runs next; its dial, the tradeoff, stands at {plan.tradeoff:.6g}."
        if plan.tradeoff is not None
        else f"One network, '{plan.certificate.static_choice}', answers everything."
    )
    yield plain(how)
    yield ""
    yield from _table(
        ("", ""),
        [
            ("stages", ", ".join(running.order)),
            ("may be followed by", ", ".join(f"{a} > {b}" for a, b in running.edges) or "nothing"),
            ("reference", graph.reference),
            ("classes", str(plan.classes)),
            *[(f"'{stage}' answers with", str(c)) for stage, c in plan.speaking.items()],
        ],
    )


def _promised(plan: Plan) -> Iterator[str]:
    found = plan.certificate
    yield "## What is promised"
    yield ""
    yield plain(sentences.promise(found, plan.graph.reference))
    yield ""
    rows = [
        ("verdict", found.verdict),
        ("budget", f"{found.budget:.4g} of {found.excess} excess loss ({found.loss})"),
        ("confidence", f"{found.confidence:.4g}"),
        *[fact for fact in plan_facts(plan) if fact[0] not in ("cost", "costs", "note")],
    ]
    if found.reference_loss is not None:
        rows.append(("loss of the reference, same examples", f"{found.reference_loss:.2%}"))
    if found.look > 1 and found.joint_confidence is not None:
        rows.append(("look at these examples", f"{found.look}"))
        rows.append(("confidence of all looks together", f"{found.joint_confidence:.4g}"))
    yield from _table(("", ""), rows)


def _costs(plan: Plan) -> Iterator[str]:
    found = plan.certificate
    yield "## What it costs"
    yield ""
    unit = plan.costs.unit
    rows = [
        ("what runs", f"{found.cost:.4g} {unit} per example"),
        ("the reference alone", f"{found.reference_cost:.4g} {unit} per example"),
        ("times less", f"{found.speedup:.2f}{sentences.sizes(found)}"),
        ("how and where", plan.costs.source),
    ]
    yield from _table(("", ""), rows)
    yield ""
    yield "These are costs of parts, added up. What the clock says is measured by `offramp bench`."


def _stops(plan: Plan) -> Iterator[str]:
    yield "## Where inputs stop"
    yield ""
    exits = plan.profile.exits
    rows = [(stage, f"{exits.get(stage, 0.0):.1%}") for stage in plan.graph.order]
    yield from _table(("stage", f"share of {plan.profile.examples} examples"), rows)


def _untested(plan: Plan) -> Iterator[str]:
    found = plan.certificate
    yield "## What it was not tested for"
    yield ""
    for line in sentences.ASSUMPTIONS:
        yield f"- {line}"
    if found.loss == DISAGREEMENT:
        yield "- No labels were used: it keeps to its reference, also where that is wrong."
    else:
        yield f"- Quality is the mean {plain(found.loss)} loss over all inputs; no class or group"
        yield "  of inputs was looked at by itself."
    yield "- Inputs made to mislead it, and other machines than the one named above."
    for note in notes(plan):
        yield f"- {plain(note)}"


def _check(plan: Plan, name: str) -> Iterator[str]:
    folder = shlex.quote(" ".join(name.split()).replace("`", "'"))
    loss = plan.certificate.loss
    named = f" --loss {loss}" if is_own(loss) else ""
    yield "## How to check it"
    yield ""
    yield "With labelled examples of your own that nobody has used for it, in `data/`:"
    yield ""
    yield "    offramp record graph --data data/ --seal 0 --out trace"
    yield f"    offramp evaluate {folder} trace{named}"
    if plan.networks:
        yield f"    offramp bench {folder} --data data/ --batch 1,64"
    yield f"    offramp report trace {folder} --out report.html"
    if plan.certificate.verdict != KEEP:
        yield ""
        yield "`evaluate` says whether the promise is kept, and whether your inputs look like"
        yield "those that it was certified on."


def _origin(plan: Plan) -> Iterator[str]:
    yield "## Versions and fingerprints"
    yield ""
    versions = plan.info.get("versions")
    known = versions.items() if isinstance(versions, dict) else ()
    data = ("learning_data", "learning_rows", "certification_data", "certification_rows")
    said = [(kind.replace("_", " "), str(plan.info[kind])) for kind in data if plan.info.get(kind)]
    rows = [
        *[(str(what), str(version)) for what, version in known],
        *said,
        *[(f"network {part}", fingerprint(file)) for part, file in plan.networks.items()],
    ]
    yield from _table(("", ""), rows)


def _table(head: Sequence[str], rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f"| {head[0]} | {head[1]} |"
    yield "|---|---|"
    for name, value in rows:
        yield f"| {plain(name)} | {plain(value)} |"
