"""What single operators of a network say: who makes a tensor, and which classes one names."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import helper


def maker_of(nodes: Iterable[onnx.NodeProto], tensor: str) -> onnx.NodeProto | None:
    return next((node for node in nodes if tensor in node.output), None)


def class_values(node: onnx.NodeProto, prefix: str) -> list[object]:
    """The classes that an operator of ai.onnx.ml names: strings or whole numbers."""
    for attribute in node.attribute:
        if attribute.name.startswith(prefix) and (
            values := list(helper.get_attribute_value(attribute))
        ):
            return values
    return []


def class_labels(node: onnx.NodeProto) -> tuple[str, ...]:
    """The names of its classes; none where they are numbers."""
    labels = class_values(node, "classlabels_strings")
    return tuple(label.decode() for label in labels if isinstance(label, bytes))


def class_numbers(node: onnx.NodeProto) -> tuple[int, ...]:
    """The numbers of its classes; none where they have names."""
    numbers = (label for label in class_values(node, "classlabels_") if isinstance(label, int))
    return tuple(numbers)
