"""The command line: which commands there are, and how each of them ends."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated

import typer

from offramp._version import __version__
from offramp.base.errors import OfframpError, reason
from offramp.command import graphs, plans, running, serving, traces
from offramp.command.terminal import say, spoken_warnings

app = typer.Typer(
    name="offramp",
    help="Run just enough network for each input, and keep the accuracy you promised.",
    no_args_is_help=True,
    add_completion=True,  # two options of `offramp` itself, none of its commands
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# what typer raises for a wrong option, whichever command-line library it brings along
_UsageError: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)


def _version(asked: bool) -> None:
    if asked:
        print(f"offramp {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which this is.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Run just enough network for each input, and keep the accuracy you promised."""


# in the order of the help, each with an example
COMMANDS: tuple[tuple[Callable[..., None], str], ...] = (
    (running.demo, "demo --out offramp-demo"),
    (graphs.optimize, "optimize big.onnx --data labelled.npz --budget 0.005 --out optimized"),
    (graphs.graph, "graph small=a.onnx big=b.onnx --size 32 --out graph"),
    (graphs.exits, "exits big.onnx --data train/ --size 32 --out graph"),
    (graphs.siblings, "siblings big.onnx --data train/ --size 32 --out graph"),
    (traces.record, "record graph --data images/ --out trace"),
    (traces.import_, "import scores.npz --cost small=41,big=126 --out trace"),
    (traces.reprice, "reprice trace --cost small=1,big=4 --out priced"),
    (plans.fit, "fit trace --budget 0.005 --out plan"),
    (plans.needs, "needs trace --budget 0.01"),
    (plans.evaluate, "evaluate plan other-trace --json"),
    (plans.compare, "compare trace --test other-trace"),
    (running.run, "run plan --data photos/ --out answers.parquet"),
    (running.bench, "bench plan --data test.npz --batch 1,64"),
    (serving.serve, "serve plan --port 8000"),
    (serving.label, "label audits labels.csv --out labelled"),
    (serving.watch, "watch plan audits"),
    (serving.size, "size plan --data test.npz --rate 2000 --p99 50ms"),
    (running.export, "export plan --out model.onnx"),
    (running.report, "report trace plan --out report.html"),
    (running.card, "card plan --out card.md"),
)
for _command, _example in COMMANDS:
    app.command(
        _command.__name__.rstrip("_"),
        short_help=" ".join((_command.__doc__ or "").split()),  # the list of commands cuts others
        epilog=f"Example: offramp {_example}",
    )(_command)


class _Stopped(BaseException):
    """Another program asked this one to end."""


def _stop(signal_: int, _: FrameType | None) -> None:
    raise _Stopped(signal_)


def main() -> None:
    """Runs the command line.

    Exit codes: 0 done, 1 `fit` says keep the reference or `watch` raises an alarm, 2 bad input, 3
    an error of offramp's own; as shells count them, 130 interrupted, 143 asked to end, 141 nobody
    reads the output any more.
    """
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    ours = threading.current_thread() is threading.main_thread()  # others handle no signals
    before = {number: signal.signal(number, _stop) for number in _ENDING if ours}
    try:
        code = _run(arguments or ["--help"], debug)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    sys.exit(code)


# without these, a command that is asked to end could not tidy up
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _run(arguments: list[str], debug: bool) -> int:
    """The exit code, after what went wrong was said; this is where every exception ends."""
    try:
        with _reading(), spoken_warnings():
            code = app(args=arguments, prog_name="offramp", standalone_mode=False)
            sys.stdout.flush()
        if code and _for_a_shell(arguments):  # which one this is is not known: no verdict
            return 2
        if code == _INTERRUPTED:  # as the command-line library says it
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        _silence()
        return 128 + 13
    except (OfframpError, OSError) as error:
        if debug:
            raise
        return say(str(error) if isinstance(error, OfframpError) else reason(error))
    except _UsageError as error:
        return say(error.format_message())  # type: ignore[attr-defined]
    except (typer.Abort, KeyboardInterrupt):
        return say("interrupted; " + _TIDY, _INTERRUPTED)
    except _Stopped as stopped:
        return say("asked to end; " + _TIDY, 128 + int(stopped.args[0]))
    except (Exception, SystemExit) as error:  # Python would exit with 1: "keep the reference"
        if isinstance(error, SystemExit) and _for_a_shell(arguments):
            return 2 if error.code else 0
        if debug:
            raise
        return say(f"unexpected {reason(error)}; run with --debug and report it", 3)


def _for_a_shell(arguments: list[str]) -> bool:
    """Whether this is about completion, after which the command-line library ends all."""
    asked = {"--install-completion", "--show-completion"} & {*arguments}
    return bool(asked) or "_OFFRAMP_COMPLETE" in os.environ


_INTERRUPTED = 130
_TIDY = "nothing is half-written, and `record` goes on where it stopped when it is run again."


@contextmanager
def _reading() -> Iterator[None]:
    """Tells a pipe that nobody reads any more, which the command-line library ends with exit 1."""
    try:
        yield
    except SystemExit as ended:
        if isinstance(ended.__context__, OSError) and ended.__context__.errno == errno.EPIPE:
            raise BrokenPipeError from None
        raise


def _silence() -> None:
    """Python writes what is left at its end, and would complain that nobody reads it."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
