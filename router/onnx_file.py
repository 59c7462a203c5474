"""What an ONNX file may not do: name other files. Read from its bytes, without the onnx package.

onnxruntime looks for such files in the working directory when a network is given as bytes; it refuses paths that lead
out of it, but reads the values of sparse tensors from there (measured with 1.32).
"""

from collections.abc import Iterator, Mapping

from router.errors import EncoderError

# By message of onnx.proto, which fields hold which messages: all ways on which a tensor is reached.
_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
# Graphs lie in attributes of nodes of graphs; no network comes near it.
MAX_DEPTH = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_self_contained(raw: bytes, where: str) -> None:
    """Raise EncoderError where the network keeps data in other files, or is no protocol buffer; ``where`` is named."""
    try:
        external = _names_files(memoryview(raw), "model", MAX_DEPTH)
    except (ValueError, IndexError) as exc:
        raise EncoderError(f"{where}: not an ONNX network: {exc}") from exc
    if external:
        raise EncoderError(f"{where}: keeps data in other files; expected a network that is whole in itself")


def _names_files(message: memoryview, kind: str, depth: int) -> bool:
    if depth == 0:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    inner = _MESSAGES[kind]
    for number, value in _fields(message):
        if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
            return True
        if number in inner and isinstance(value, memoryview) and _names_files(value, inner[number], depth - 1):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield every field by its number: a whole number, or the bytes of what has a length; fixed numbers as bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if tag >= 1 << 32:  # a reader that cut it to 32 bits would see another field
            raise ValueError(f"field number {number} at byte {at}")
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _BYTES:
            length, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if length > len(message) - at:
            raise ValueError(f"a field of {length} bytes ends beyond its message")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number of more than 10 bytes at byte {at}")
