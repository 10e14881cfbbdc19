"""The part of Caffe's protobuf schema that stores weights and structure.

Field names and numbers are those of ``caffe.proto``; everything else is left out and is skipped
as unknown when a file is read. Two fields are declared differently: the packed ``float`` and
``double`` arrays of a blob are read as bytes, which have the same wire format, so that NumPy takes
them over without a Python object per number. The messages live in a pool of their own and do not
collide with an installed Caffe.
"""

from typing import Any

from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

_F = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "string": _F.TYPE_STRING,
    "bytes": _F.TYPE_BYTES,
    "int64": _F.TYPE_INT64,
    "uint64": _F.TYPE_UINT64,
    "int32": _F.TYPE_INT32,
    "float": _F.TYPE_FLOAT,
    "bool": _F.TYPE_BOOL,
}

# message -> (field, number, type, repeated); a type that is no scalar is a message.
SCHEMA: dict[str, tuple[tuple[str, int, str, bool], ...]] = {
    "BlobShape": (("dim", 1, "int64", True),),
    "BlobProto": (
        ("num", 1, "int64", False),
        ("channels", 2, "int64", False),
        ("height", 3, "int64", False),
        ("width", 4, "int64", False),
        ("data", 5, "bytes", True),
        ("shape", 7, "BlobShape", False),
        ("double_data", 8, "bytes", True),
    ),
    "ConvolutionParameter": (
        ("num_output", 1, "uint64", False),
        ("bias_term", 2, "bool", False),
        ("pad", 3, "uint64", True),
        ("kernel_size", 4, "uint64", True),
        ("group", 5, "uint64", False),
        ("stride", 6, "uint64", True),
        ("pad_h", 9, "uint64", False),
        ("pad_w", 10, "uint64", False),
        ("kernel_h", 11, "uint64", False),
        ("kernel_w", 12, "uint64", False),
        ("stride_h", 13, "uint64", False),
        ("stride_w", 14, "uint64", False),
        ("dilation", 18, "uint64", True),
    ),
    "PoolingParameter": (
        ("pool", 1, "int32", False),
        ("kernel_size", 2, "uint64", True),
        ("stride", 3, "uint64", True),
        ("pad", 4, "uint64", True),
        ("global_pooling", 12, "bool", False),
    ),
    "LRNParameter": (
        ("local_size", 1, "uint64", False),
        ("alpha", 2, "float", False),
        ("beta", 3, "float", False),
        ("norm_region", 4, "int32", False),
        ("k", 5, "float", False),
    ),
    "InnerProductParameter": (
        ("num_output", 1, "uint64", False),
        ("transpose", 6, "bool", False),
    ),
    "LayerParameter": (
        ("name", 1, "string", False),
        ("type", 2, "string", False),
        ("bottom", 3, "string", True),
        ("top", 4, "string", True),
        ("blobs", 7, "BlobProto", True),
        ("convolution_param", 106, "ConvolutionParameter", False),
        ("inner_product_param", 117, "InnerProductParameter", False),
        ("lrn_param", 118, "LRNParameter", False),
        ("pooling_param", 121, "PoolingParameter", False),
    ),
    "V0LayerParameter": (
        ("name", 1, "string", False),
        ("type", 2, "string", False),
        ("num_output", 3, "uint64", False),
        ("pad", 7, "uint64", False),
        ("kernelsize", 8, "uint64", False),
        ("group", 9, "uint64", False),
        ("stride", 10, "uint64", False),
        ("pool", 11, "int32", False),
        ("local_size", 13, "uint64", False),
        ("alpha", 14, "float", False),
        ("beta", 15, "float", False),
        ("k", 22, "float", False),
        ("blobs", 50, "BlobProto", True),
    ),
    "V1LayerParameter": (
        ("layer", 1, "V0LayerParameter", False),
        ("bottom", 2, "string", True),
        ("top", 3, "string", True),
        ("name", 4, "string", False),
        ("type", 5, "int32", False),
        ("blobs", 6, "BlobProto", True),
        ("convolution_param", 10, "ConvolutionParameter", False),
        ("inner_product_param", 17, "InnerProductParameter", False),
        ("lrn_param", 18, "LRNParameter", False),
        ("pooling_param", 19, "PoolingParameter", False),
    ),
    "NetParameter": (
        ("name", 1, "string", False),
        ("layers", 2, "V1LayerParameter", True),
        ("layer", 100, "LayerParameter", True),
    ),
}

# Layer types that matter, by V1's number and V0's name.
V1_TYPES = {4: "Convolution", 14: "InnerProduct", 15: "LRN", 17: "Pooling"}
V0_TYPES = {"conv": "Convolution", "innerproduct": "InnerProduct", "lrn": "LRN", "pool": "Pooling"}

_PACKAGE = "mpp_jax.caffe"


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="mpp_jax_caffe.proto", package=_PACKAGE, syntax="proto2"
    )
    for message, fields in SCHEMA.items():
        entry = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            label = _F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL
            field = entry.field.add(name=name, number=number, label=label)
            if kind in _TYPES:
                field.type = _TYPES[kind]
            else:
                field.type, field.type_name = _F.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in SCHEMA
    }


MESSAGES: dict[str, Any] = _build()
NetParameter: Any = MESSAGES["NetParameter"]
