"""Which of several answers is the deepest, and in which order the others come before it."""

from __future__ import annotations

from collections.abc import Callable, Collection

from offramp.base.errors import NetworkError
from offramp.exits.network import Network


def by_depth(
    network: Network, answer: str | None = None, shown: Callable[[str], str] = str
) -> list[str]:
    """The outputs of a network, each before those that it shares less work with; its own the last.

    Its own answer is the deepest: all others end before it does. Of two answers the deeper one
    needs all that the other needs, or else, from where they part, more layers as well as more work.

    Args:
        network: whose outputs are scores.
        answer: the output that is its own; None: the deepest.
        shown: how an output is called in messages.

    Raises:
        NetworkError: there is no such output, or the deepest one cannot be told.
    """
    outputs = network.outputs
    names = ", ".join(map(shown, outputs))
    if answer is not None and answer not in outputs:
        raise NetworkError(f"there is no output '{shown(answer)}'; there are {names}.")
    deepest = [a for a in outputs if all(_deeper(network, a, b) for b in outputs if b != a)]
    own = answer or next(iter(deepest), None)
    if own is None:
        raise NetworkError(
            f"which of its answers ({names}) is the network's own does not show: none needs more "
            "layers and more work than all others from where they part. Say which it is: "
            "--output NAME; of a module export(..., answer=NAME)."
        )
    needed = network.ancestors(own)
    shared = {name: len(network.ancestors(name) & needed) for name in outputs}
    return sorted(outputs, key=lambda name: (name == own, shared[name]))


def _deeper(network: Network, one: str, other: str) -> bool:
    """Whether `one` certainly lies deeper in the network than `other`."""
    mine, theirs = network.ancestors(one), network.ancestors(other)
    beyond, besides = mine - theirs - network.shaping, theirs - mine - network.shaping
    if not besides or not beyond:
        return bool(beyond)
    return _layers(network, beyond) > _layers(network, besides) and _work(network, beyond) > _work(
        network, besides
    )


def _work(network: Network, nodes: Collection[int]) -> int:
    return sum(network.multiply_adds[position] for position in nodes)


def _layers(network: Network, nodes: Collection[int]) -> int:
    """The most nodes that multiply, one after the other."""
    longest: dict[int, int] = {}
    for position in sorted(nodes):  # ONNX lists nodes after those that they read
        before = (network.producer.get(name, -1) for name in network.reads[position])
        most = max((longest.get(node, 0) for node in before), default=0)
        longest[position] = most + (network.multiply_adds[position] > 0)
    return max(longest.values(), default=0)
