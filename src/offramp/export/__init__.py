"""A plan as ONNX: one file that holds everything, or a file per stage."""

from offramp.export.folder import write_folder
from offramp.export.single import one_file, write_file
from offramp.export.triton import write_triton

__all__ = ["one_file", "write_file", "write_folder", "write_triton"]
