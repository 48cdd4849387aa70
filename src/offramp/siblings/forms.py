"""Which copies of a network are made: on how many pixels, of how many blocks, trained or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offramp.networks.resizing import Size
from offramp.siblings.shrinking import SHARES as SIDES

UNTRAINED = (0.75, 0.5)  # of the residual blocks that stay where nothing is trained
TRAINED = 1 / 3  # of them, where the rest learns to do without the others


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to be cheaper than a network with the same weights."""

    size: Size | None = None  # height and width of what the weights see; None: all
    blocks: tuple[int, int] | None = None  # residual blocks that stay, of how many; None: all
    trained: bool = False

    @property
    def name(self) -> str:
        blocks = f"{self.blocks[0]}of{self.blocks[1]}" if self.blocks else ""
        size = f"{self.size[0]}x{self.size[1]}" if self.size else ""
        return "-".join(filter(None, [blocks, size, "trained" if self.trained else ""]))


WHOLE = Form()


def plain_forms(sizes: Sequence[Size], blocks: int) -> list[Form]:
    """Those that need no training.

    Args:
        sizes: of images, largest first; none where there are no images.
        blocks: residual blocks that the network has.
    """
    left = dict.fromkeys(round(share * blocks) for share in UNTRAINED)
    shorter = [Form(blocks=(stay, blocks)) for stay in left if 0 < stay < blocks]
    return [*(Form(size=size) for size in sizes), *shorter]


def trained_forms(sizes: Sequence[Size], blocks: int, alone: bool) -> list[Form]:
    """Those that are trained, cheapest first.

    Args:
        sizes: as in `plain_forms`.
        blocks: likewise.
        alone: whether no smaller network was given: its own blocks then make one.
    """
    stay = round(TRAINED * blocks)
    shorter = (stay, blocks) if 0 < stay < blocks else None
    half = sizes[len(SIDES) - 1] if len(sizes) == len(SIDES) else None
    found = [Form(size=half, blocks=shorter, trained=True)]
    if alone and shorter:
        found.append(Form(blocks=shorter, trained=True))
    elif half:
        found.append(Form(size=half, trained=True))
    return [form for form in dict.fromkeys(found) if form.size or form.blocks]
