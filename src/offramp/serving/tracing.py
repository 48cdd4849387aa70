"""W3C trace context, and logs as JSON, one object a line."""

from __future__ import annotations

import json
import logging
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

LOG = logging.getLogger("offramp.serving")
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True)
class TraceContext:
    """Which trace a request belongs to, and the span that this server is in it.

    Source: W3C, Trace Context, section 3.2.
    """

    trace: str  # 32 hexadecimal digits
    span: str  # 16
    parent: str | None  # the caller's span
    flags: str = "00"

    @classmethod
    def of(cls, header: str | None) -> TraceContext:
        """From the header `traceparent`; a new trace where it is missing or is none."""
        found = _PARENT.fullmatch(header.strip()) if header else None
        span = secrets.token_hex(8)
        if not found or found[1] == "ff" or (found[1] == "00" and found[5]):
            return cls(secrets.token_hex(16), span, None)
        if not int(found[2], 16) or not int(found[3], 16):
            return cls(secrets.token_hex(16), span, None)
        return cls(found[2], span, found[3], found[4])

    def __str__(self) -> str:
        return f"00-{self.trace}-{self.span}-{self.flags}"


@dataclass(frozen=True)
class Caller:
    """Whose request it is."""

    id: str  # as the client calls it, or its trace where it says nothing
    trace: TraceContext


class JsonLines(logging.Formatter):
    """A log record as one JSON object: time, level, event, and what came with it."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat("T", "milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "about", {}),
        }
        if record.exc_info:
            told["problem"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def tell(event: str, level: int = logging.INFO, **about: Any) -> None:
    """Writes a line of the log, if anybody listens at this level."""
    if LOG.isEnabledFor(level):
        LOG.log(level, event, extra={"about": about})


def log_to(stream: TextIO, level: str) -> None:
    """Sends the log, and warnings of Python, to a stream; `level` is debug, info, warning, ..."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    for logger in (LOG, logging.getLogger("py.warnings")):
        logger.handlers[:] = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
    logging.captureWarnings(True)
