"""Options that several commands share, each with its one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offramp.runtime.engine import EngineName

Out = Annotated[Path, typer.Option("--out", help="Where to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output of offramp.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
Data = Annotated[
    str, typer.Option("--data", help=".npz, Parquet, a folder of images, or hf:NAME[:SPLIT].")
]
Engine = Annotated[EngineName, typer.Option("--engine", help="What runs the networks.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each network.")]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", help="Leave out images that do not decode, and count them.")
]
Edges = Annotated[str | None, typer.Option(help='"a>b,a>c,b>c". Default: a chain.')]
Reference = Annotated[str | None, typer.Option(help="The full network. Default: the last one.")]
