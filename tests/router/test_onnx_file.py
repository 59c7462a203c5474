"""router/onnx_file.py: a network that names other files is refused, however deep the name lies."""

import json
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.encoder import OnnxEncoder, _load_session
from router.errors import EncoderError
from router.onnx_file import check_self_contained


def number(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def part(field: int, content: bytes | str) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return number(field << 3 | 2) + number(len(raw)) + raw


def whole(field: int, value: int) -> bytes:
    return number(field << 3) + number(value)


def tensor(name: str, shape: tuple[int, ...], location: str | None) -> bytes:
    """Return a float32 tensor of halves, in another file where a location is given."""
    raw = b"".join(whole(1, one) for one in shape) + whole(2, 1) + part(8, name)
    if location is None:
        return raw + part(9, struct.pack("<4f", 0.5, 0.5, 0.5, 0.5))
    return raw + part(13, part(1, "location") + part(2, location)) + whole(14, 1)


def sparse(location: str | None) -> bytes:
    indices = whole(1, 4) + whole(2, 7) + part(8, "indices") + part(9, struct.pack("<4q", 0, 1, 2, 3))
    return part(1, tensor("w", (4,), location)) + part(2, indices) + whole(3, 1) + whole(3, 4)


def value_info(name: str, kind: int, shape: tuple[int | None, ...]) -> bytes:
    dims = b"".join(part(1, b"" if one is None else whole(1, one)) for one in shape)
    return part(1, name) + part(2, part(1, whole(1, kind) + part(2, dims)))


def network(way: str, location: str | None) -> bytes:
    """Return a whole network whose output is the tensor w, which is reached by one of the ways that there are."""
    nodes = [part(1, "w") + part(2, "out") + part(4, "Identity")]
    rest = b""
    if way == "initializer":
        rest = part(5, tensor("w", (1, 4), location))
    elif way == "sparse initializer":
        rest = part(15, sparse(location))
    else:
        field, value = {
            "constant": (5, tensor("w", (1, 4), location)),
            "sparse constant": (22, sparse(location)),
            "list of tensors": (10, tensor("w", (1, 4), location)),
            "list of sparse tensors": (23, sparse(location)),
            "inner graph": (6, part(5, tensor("w", (1, 4), location))),
            "list of graphs": (11, part(15, sparse(location))),
        }[way]
        kind = {"constant": 4, "sparse constant": 11}.get(way, 5)
        name = "sparse_value" if way == "sparse constant" else "value"
        nodes.insert(
            0, part(2, "w") + part(4, "Constant") + part(5, part(1, name) + part(field, value) + whole(20, kind))
        )
    ends = part(11, value_info("input_ids", 7, (1, None))) + part(12, value_info("out", 1, (1, 4)))
    graph = b"".join(part(1, one) for one in nodes) + part(2, "g") + rest + ends
    return whole(1, 9) + part(7, graph) + part(8, part(1, "") + whole(2, 17))


WAYS = (
    *("initializer", "sparse initializer", "constant", "sparse constant", "list of tensors"),
    *("list of sparse tensors", "inner graph", "list of graphs"),
)


@pytest.mark.parametrize("location", ["secret.bin", "../secret.bin", "/etc/passwd", ""])
@pytest.mark.parametrize("way", WAYS)
def test_data_in_another_file_is_refused(way: str, location: str) -> None:
    check_self_contained(network(way, None), "x")
    with pytest.raises(EncoderError, match="x: keeps data in other files; expected a network that is whole in itself"):
        check_self_contained(network(way, location), "x")


@pytest.mark.parametrize(
    "raw", [part(25, part(7, part(5, part(5, whole(14, 1))))), part(20, part(1, part(5, whole(14, 1))))]
)
def test_functions_and_training_graphs_are_looked_into(raw: bytes) -> None:
    with pytest.raises(EncoderError, match="keeps data in other files"):
        check_self_contained(raw, "x")


@pytest.mark.parametrize("way", ["initializer", "sparse initializer", "constant", "sparse constant"])
def test_onnxruntime_runs_what_the_tests_make_but_never_with_a_file_of_the_working_directory(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself it reads sparse tensors from there; the networks are real, so that the refusal is of the name alone."""
    monkeypatch.chdir(tmp_path)
    Path("secret.bin").write_bytes(struct.pack("<4f", 0.5, 0.5, 0.5, 0.5))
    assert _load_session(network(way, None), "x") is not None
    with pytest.raises(EncoderError, match=r"x/model\.onnx: keeps data in other files"):
        _load_session(network(way, "secret.bin"), "x")


def test_an_encoder_with_data_elsewhere_is_refused(encoder: OnnxEncoder, tmp_path: Path) -> None:
    settings = encoder.settings.to_json() | {"dim": 4, "canaries": []}
    for name, raw in (encoder.files | {"encoder.json": json.dumps(settings).encode()}).items():
        (tmp_path / name).write_bytes(raw)
    (tmp_path / "model.onnx").write_bytes(network("initializer", None))
    assert OnnxEncoder.load(tmp_path).encode("x").vector.tolist() == [0.5] * 4
    (tmp_path / "model.onnx").write_bytes(network("initializer", "secret.bin"))
    with pytest.raises(EncoderError, match=r"model\.onnx: keeps data in other files"):
        OnnxEncoder.load(tmp_path)


def test_the_encoders_that_ship_are_whole(encoder: OnnxEncoder, full_encoder: OnnxEncoder) -> None:
    for one in (encoder, full_encoder):
        check_self_contained(one.files["model.onnx"], "x")


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        b"\x3a\x05abc",
        b"\x3b",
        b"\xff" * 12,
        number((7 | 1 << 40) << 3 | 2) + b"\x00",
        b"\x3a" + number(1 << 62),
        b"\x0d\x00",
    ],
)
def test_what_is_no_network_is_refused(raw: bytes) -> None:
    with pytest.raises(EncoderError, match="x: not an ONNX network"):
        check_self_contained(raw, "x")


def test_a_network_nested_without_end_is_refused() -> None:
    raw = b""
    for _ in range(200):
        raw = part(1, part(5, part(6, raw)))
    with pytest.raises(EncoderError, match="nested more than 64 deep"):
        check_self_contained(part(7, raw), "x")


@given(st.binary(max_size=300))
def test_any_bytes_are_accepted_or_refused(raw: bytes) -> None:
    with suppress(EncoderError):
        check_self_contained(raw, "x")


@given(st.data())
def test_a_damaged_network_is_accepted_or_refused(data: st.DataObject) -> None:
    raw = bytearray(network(data.draw(st.sampled_from(WAYS)), None))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(EncoderError):
        check_self_contained(bytes(raw), "x")
