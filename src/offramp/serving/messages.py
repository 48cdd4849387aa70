"""The messages of the Open Inference Protocol over gRPC, made from a table when this is imported.

The table says what goes over the wire: numbers and types of fields as the protocol publishes them
(`open_inference_grpc.proto`). There is no generated code, which would be tied to one version of
protobuf, and the messages live in a pool of their own beside those of any client in the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE, SERVICE = "inference", "GRPCInferenceService"
_PARAMETERS = "map InferParameter"
_TENSOR = {"name": "string 1", "datatype": "string 2", "shape": "repeated int64 3"}
_CONTENT = {**_TENSOR, "parameters": f"{_PARAMETERS} 4", "contents": "InferTensorContents 5"}
_ASKED = {"name": "string 1", "version": "string 2"}
# message -> field -> its type and number; "map T" is map<string, T>
TABLE: Mapping[str, Mapping[str, str]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": "bool 1"},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": "bool 1"},
    "ModelReadyRequest": _ASKED,
    "ModelReadyResponse": {"ready": "bool 1"},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {**_ASKED, "extensions": "repeated string 3"},
    "ModelMetadataRequest": _ASKED,
    "TensorMetadata": _TENSOR,
    "ModelMetadataResponse": {
        "name": "string 1",
        "versions": "repeated string 2",
        "platform": "string 3",
        "inputs": "repeated TensorMetadata 4",
        "outputs": "repeated TensorMetadata 5",
    },
    "InferParameter": {
        "bool_param": "bool 1",
        "int64_param": "int64 2",
        "string_param": "string 3",
        "double_param": "double 4",
        "uint64_param": "uint64 5",
    },
    "InferTensorContents": {
        "bool_contents": "repeated bool 1",
        "int_contents": "repeated int32 2",
        "int64_contents": "repeated int64 3",
        "uint_contents": "repeated uint32 4",
        "uint64_contents": "repeated uint64 5",
        "fp32_contents": "repeated float 6",
        "fp64_contents": "repeated double 7",
        "bytes_contents": "repeated bytes 8",
    },
    "InferInputTensor": _CONTENT,
    "InferRequestedOutputTensor": {"name": "string 1", "parameters": f"{_PARAMETERS} 2"},
    "InferOutputTensor": _CONTENT,
    "ModelInferRequest": {
        "model_name": "string 1",
        "model_version": "string 2",
        "id": "string 3",
        "parameters": f"{_PARAMETERS} 4",
        "inputs": "repeated InferInputTensor 5",
        "outputs": "repeated InferRequestedOutputTensor 6",
        "raw_input_contents": "repeated bytes 7",
    },
    "ModelInferResponse": {
        "model_name": "string 1",
        "model_version": "string 2",
        "id": "string 3",
        "parameters": f"{_PARAMETERS} 4",
        "outputs": "repeated InferOutputTensor 5",
        "raw_output_contents": "repeated bytes 6",
    },
}
METHODS = (
    *("ServerLive", "ServerReady", "ModelReady"),
    *("ServerMetadata", "ModelMetadata", "ModelInfer"),
)
_ONE_OF = {"InferParameter": "parameter_choice"}  # of whose fields one is set
_Field: Any = descriptor_pb2.FieldDescriptorProto


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="offramp/open_inference.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in TABLE.items():
        message = file.message_type.add(name=name)
        if name in _ONE_OF:
            message.oneof_decl.add(name=_ONE_OF[name])
        for field, said in fields.items():
            _add(message, name, field, said.split())
    return file


def _add(message: Any, owner: str, field: str, said: list[str]) -> None:
    *how, kind, number = said
    one = message.field.add(name=field, number=int(number))
    one.label = _Field.LABEL_REPEATED if how else _Field.LABEL_OPTIONAL
    if how == ["map"]:
        entry = message.nested_type.add(name="".join(w.title() for w in field.split("_")) + "Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=_Field.TYPE_STRING, label=1)
        _typed(entry.field.add(name="value", number=2, label=1), kind)
        _typed(one, f"{owner}.{entry.name}")
    else:
        _typed(one, kind)
    if owner in _ONE_OF:
        one.oneof_index = 0


def _typed(field: Any, kind: str) -> None:
    if kind.split(".")[0] in TABLE:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = getattr(_Field, f"TYPE_{kind.upper()}")


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())


def message(name: str) -> Any:
    """The class of a message."""
    found = _POOL.FindMessageTypeByName(f"{PACKAGE}.{name}")
    return message_factory.GetMessageClass(found)
