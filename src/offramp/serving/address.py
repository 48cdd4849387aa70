"""Where a server listens, and what it lets in."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from offramp.base.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Door:
    """What may come in.

    Raises:
        InputError: a limit that is none.
    """

    body_bytes: Annotated[int, "Bytes of a request's body, at most."] = 64 * 2**20
    body_s: Annotated[float, "Seconds for a body to come."] = 30.0
    api_key: str | None = None  # asked for as `Authorization: Bearer KEY`; None: nobody is asked

    def __post_init__(self) -> None:
        if self.body_bytes < 1 or not self.body_s > 0:
            raise InputError("a body needs at least a byte, and some time to come; raise limits.")
        if self.api_key == "":
            raise InputError("the API key is empty; give one, or leave it out.")

    def opens(self, given: str | None) -> bool:
        """Whether a header `Authorization` has the key; takes as long whatever it has."""
        if self.api_key is None:
            return True
        expected = f"Bearer {self.api_key}".encode()
        return hmac.compare_digest(expected, (given or "").encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens, and to whom.

    Raises:
        InputError: half of what TLS needs, or a limit that is none.
    """

    host: Annotated[str, "Which address to listen on; 0.0.0.0 is all of them."] = "127.0.0.1"
    port: Annotated[int, "Of HTTP; 0: any that is free."] = 8000
    grpc_port: Annotated[int | None, "Of gRPC; 0: any that is free. Default: no gRPC."] = None
    certificate: Annotated[Path | None, "PEM file, for TLS on both ports."] = None
    key: Annotated[Path | None, "PEM file, of the certificate."] = None
    connections: Annotated[int, "Connections open at once, at most."] = 1000
    header_s: Annotated[float, "Seconds for the header of a request to come."] = 10.0
    header_bytes: int = 64 * 1024
    drain_s: Annotated[float, "Seconds to answer what is inside when asked to end."] = 30.0

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InputError("TLS needs a certificate and its key; give both, or neither.")
        if self.connections < 1 or not self.header_s > 0 or self.header_bytes < 1:
            raise InputError("a server needs room for a connection and time for a header.")
        for port in (self.port, self.grpc_port or 0):
            if not 0 <= port < 2**16:
                raise InputError(f"there is no port {port}; give one from 0 to 65535.")
