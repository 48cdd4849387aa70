"""Two language models behind an OpenAI-compatible address as stages: questions with four choices.

Usage: python -m examples.language_model

`StandIn` is a server on this machine that takes their place; give the address and the names of
your own instead. `ask` is all that a service takes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen

import numpy as np

from offramp import Plan, Trace, fit, infer
from offramp.base.arrays import AnyArray
from offramp.runtime import Answers, Calls, PerRow
from offramp.testing import synthetic

CHOICES = "ABCD"


def ask(address: str, model: str) -> PerRow:
    """A model as a stage: how likely it thinks that each choice is the answer to a question."""

    def scores(question: str) -> list[float]:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": f"{question}\nAnswer A, B, C or D alone."}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 20,
        }
        key = os.environ.get("OPENAI_API_KEY", "")
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        request = Request(f"{address}/chat/completions", json.dumps(body).encode(), headers)
        with urlopen(request, timeout=20) as answer:
            token = json.load(answer)["choices"][0]["logprobs"]["content"][0]
        likely = {each["token"].strip(): each["logprob"] for each in token["top_logprobs"]}
        return [likely.get(choice, -30.0) for choice in CHOICES]

    return PerRow(scores)


def main() -> None:
    with stand_in() as address:
        answers = run(address)[1]
    print(f"answered by: {dict(Counter(answers.stage.tolist()))}")


def run(address: str) -> tuple[Plan, Answers]:
    """A plan over two models, and its answers to questions that were not asked before."""
    calls = Calls(
        {"small": ask(address, "small"), "big": ask(address, "big")},
        limit=16,
        timeout_s=60,
        retries=3,
    )
    questions, answers = QUESTIONS[:700], ANSWERS[:700]
    scores = {stage: calls.run(stage, questions) for stage in ("small", "big")}
    trace = Trace.of(scores, answers, costs={"small": 0.15, "big": 2.5})  # dollars for a million
    plan = fit(trace, budget=0.02)
    return plan, infer(plan, calls, QUESTIONS[700:])


# ---------------------------------------------------------------------- in the place of a service

KNOWN = synthetic(900, ("small", "big"), classes=len(CHOICES), seed=1)
QUESTIONS = [f"Question {number}: which of the four is it?" for number in range(KNOWN.examples)]
ANSWERS: AnyArray = np.asarray(KNOWN.labels)
ASKED: Counter[tuple[str, int]] = Counter()  # how often a model was asked a question


@contextmanager
def stand_in() -> Iterator[str]:
    """The address of a server that answers as two models would, until it is left."""
    server = _Server(("127.0.0.1", 0), StandIn)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # callers that may wait for it at once


class StandIn(BaseHTTPRequestHandler):
    """Answers chats with one token, and what it thought of the others."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = int(asked["messages"][0]["content"].split(":")[0].removeprefix("Question "))
        ASKED[asked["model"], number] += 1
        told = json.dumps(self.answer(KNOWN.scores[asked["model"]][number])).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def answer(self, scores: AnyArray) -> Mapping[str, Any]:
        likely = scores - np.log(np.exp(scores).sum())
        tokens = [{"token": c, "logprob": float(v)} for c, v in zip(CHOICES, likely, strict=True)]
        best = CHOICES[int(scores.argmax())]
        content = [{"token": best, "logprob": float(likely.max()), "top_logprobs": tokens}]
        message = {"role": "assistant", "content": best}
        return {"choices": [{"message": message, "logprobs": {"content": content}}]}

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


if __name__ == "__main__":
    main()
