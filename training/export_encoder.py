"""Writing an encoder directory: the ONNX graph of a static encoder, and the three files all at once.

Needs the extra ``encoders`` (onnx). What is written here, router/encoder.py reads.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from router.encoder import EncoderSettings, OnnxEncoder, check_canaries
from router.errors import EncoderError

OPSET = 17
IR_VERSION = 8  # what opset 17 came with: onnx would write its newest, which older onnxruntimes refuse
CANARY_NUMBERS = 8
CANARY_DECIMALS = 6
CANARY_TOLERANCE = 1e-4


def quantize_rows(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each row to int8, symmetrically: vectors float32 (n, dim) are about table (n, dim) * scales (n, 1)."""
    largest = np.abs(vectors).max(axis=1)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    table = np.rint(vectors / scales[:, None]).astype(np.int8)
    return table, scales


def static_graph(table: NDArray[np.int8], weights: NDArray[np.float32]) -> bytes:
    """Return a self-contained ONNX model from ``input_ids`` to one unit vector ``embedding``.

    The vector is the sum over tokens of weights[id] * table[id], scaled to unit length; a zero sum stays zero.
    table: int8 (n_tokens, dim). weights: float32 (n_tokens,), the row's quantisation scale times the token's weight.
    input_ids: int64 (1, T). embedding: float32 (1, dim).
    """
    n_tokens, dim = table.shape
    if weights.shape != (n_tokens,):
        raise ValueError(f"weights must have shape ({n_tokens},), got {weights.shape}")
    nodes = [
        helper.make_node("Reshape", ["input_ids", "flat"], ["ids"]),
        helper.make_node("Gather", ["table", "ids"], ["rows_int8"], axis=0),
        helper.make_node("Cast", ["rows_int8"], ["rows"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["weights", "input_ids"], ["token_weights"], axis=0),
        # One product weighs and sums. The mean over tokens has the same direction, and only that is kept.
        helper.make_node("MatMul", ["token_weights", "rows"], ["sum"]),
        helper.make_node("LpNormalization", ["sum"], ["embedding"], axis=1, p=2),
    ]
    constants = [
        numpy_helper.from_array(np.array([-1], dtype=np.int64), "flat"),
        numpy_helper.from_array(table.astype(np.int8, copy=False), "table"),
        numpy_helper.from_array(weights.astype(np.float32, copy=False), "weights"),
    ]
    graph = helper.make_graph(
        nodes,
        "static_encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "n_tokens"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, dim])],
        constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="whichmodel"
    )
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def write_encoder(
    out: Path, settings: EncoderSettings, *, tokenizer_json: str, model: bytes, canary_texts: Sequence[str]
) -> EncoderSettings:
    """Write an encoder directory, with canary vectors computed by the code that will serve; return its settings.

    Nothing is left behind on failure: the directory is written beside ``out``, loaded, checked and then renamed.

    Raises:
        EncoderError: ``out`` exists, cannot be written, or the files do not make a working encoder.
    """
    if out.exists():
        raise EncoderError(f"{out}: exists already, expected the name of a new directory")
    files = {"tokenizer.json": tokenizer_json.encode(), "model.onnx": model, "encoder.json": _settings_json(settings)}
    encoder = OnnxEncoder(files, where=str(out))
    canaries = []
    for text in canary_texts:
        numbers = encoder.encode(text).vector[:CANARY_NUMBERS].tolist()
        canaries.append((text, tuple(round(number, CANARY_DECIMALS) for number in numbers)))
    settings = replace(settings, canaries=tuple(canaries))
    files["encoder.json"] = _settings_json(settings)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        for name, content in files.items():
            (partial / name).write_bytes(content)
        difference = check_canaries(OnnxEncoder.load(partial))
        if not difference < CANARY_TOLERANCE:
            raise EncoderError(f"{out}: the canary vectors come out different by {difference:.2g} when read back")
        partial.rename(out)
    except OSError as exc:
        raise EncoderError(f"{out}: cannot be written: {exc.strerror}") from exc
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return settings


def _settings_json(settings: EncoderSettings) -> bytes:
    return (json.dumps(settings.to_json(), ensure_ascii=False, indent=1) + "\n").encode()
