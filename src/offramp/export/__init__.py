"""A plan as ONNX: one file that holds everything, or a file per stage."""

from offramp.export.folder import write_folder
from offramp.export.single import one_file, write_file

__all__ = ["one_file", "write_file", "write_folder"]
