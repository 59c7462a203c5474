"""Writing an encoder directory: the ONNX graphs of both tiers, and the three files all at once.

Needs the extra ``encoders`` (onnx). What is written here, router/encoder.py reads.

The graph of the full tier is laid out by hand, not traced: serving runs one prompt at a time, so that no padding mask
is needed. Traced graphs carry one along with its shape arithmetic; their int8 form was 2 to 15 % slower.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from router.encoder import EncoderSettings, OnnxEncoder, check_canaries, embed
from router.errors import EncoderError

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # what opset 20 came with: onnx would write its newest, which older onnxruntimes refuse
CANARY_NUMBERS = 8
CANARY_DECIMALS = 6
CANARY_TOLERANCE = 1e-4
PARITY_COSINE = 0.9999


def quantize_rows(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each row to int8, symmetrically: vectors float32 (n, dim) are about table (n, dim) * scales (n, 1)."""
    largest = np.abs(vectors).max(axis=1)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    table = np.rint(vectors / scales[:, None]).astype(np.int8)
    return table, scales


def static_graph(
    table: NDArray[np.int8],
    weights: NDArray[np.float32],
    places: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> bytes:
    """Return a self-contained ONNX model from ``input_ids`` to one unit vector ``embedding``.

    The vector is the sum over tokens of weights[id] * table[id], scaled to unit length; a zero sum stays zero. With
    ``places``, a token also has the weight front[its place] * back[its place from the end].
    table: int8 (n_tokens, dim). weights: float32 (n_tokens,), the row's quantisation scale times the token's weight.
    places: (front, back), float32 (max_tokens,) each. input_ids: int64 (1, T). embedding: float32 (1, dim).
    """
    n_tokens, dim = table.shape
    if weights.shape != (n_tokens,):
        raise ValueError(f"weights must have shape ({n_tokens},), got {weights.shape}")
    graph = _Graph()
    flat = graph.add("Reshape", "input_ids", graph.constant("flat", np.array([-1], dtype=np.int64)))
    rows = graph.add("Gather", graph.constant("table", table.astype(np.int8, copy=False)), flat, axis=0)
    token_weights = graph.add("Gather", graph.constant("weights", weights.astype(np.float32)), "input_ids", axis=0)
    if places is not None:
        front, back = places
        length = graph.add("Shape", flat)
        limit = graph.constant("max_tokens", np.array([len(back)], dtype=np.int64))
        start = graph.constant("start", np.array([0], dtype=np.int64))
        from_front = graph.add("Slice", graph.constant("front", front), start, length)
        # Stored from the last place to the first, so that the end of the array is the end of the text.
        tail = graph.add("Sub", limit, length)
        from_back = graph.add("Slice", graph.constant("back", back[::-1]), tail, limit)
        token_weights = graph.add("Mul", token_weights, graph.add("Mul", from_front, from_back))
    # One product weighs and sums. The mean over tokens has the same direction, and only that is kept.
    total = graph.add("MatMul", token_weights, graph.add("Cast", rows, to=TensorProto.FLOAT))
    return graph.finish("static_encoder", total, dim)


@dataclass(frozen=True, slots=True)
class BertShape:
    """What a BERT network is made of, besides its weights."""

    n_layers: int
    n_heads: int
    dim: int
    norm_epsilon: float


def bert_graph(weights: Mapping[str, NDArray[np.float32]], shape: BertShape, max_tokens: int) -> bytes:
    """Return a self-contained float32 ONNX model of a BERT network with mean pooling, ending in a unit vector.

    weights: by the names of transformers' BertModel. max_tokens: positions that are kept.
    input_ids: int64 (1, T), special tokens included. embedding: float32 (1, dim).
    """
    graph = _Graph()
    n_heads, dim = shape.n_heads, shape.dim
    size = dim // n_heads

    def dense(x: str, name: str, scale: float = 1.0) -> str:
        product = graph.add("MatMul", x, graph.constant(f"{name}.weight", weights[f"{name}.weight"].T * scale))
        return graph.add("Add", product, graph.constant(f"{name}.bias", weights[f"{name}.bias"] * scale))

    def norm(x: str, name: str) -> str:
        gain = graph.constant(f"{name}.weight", weights[f"{name}.weight"])
        bias = graph.constant(f"{name}.bias", weights[f"{name}.bias"])
        return graph.add("LayerNormalization", x, gain, bias, axis=-1, epsilon=shape.norm_epsilon)

    def heads(x: str, axes: Sequence[int]) -> str:
        return graph.add("Transpose", graph.add("Reshape", x, apart), perm=axes)

    apart = graph.constant("heads_apart", np.array([0, 0, n_heads, size], dtype=np.int64))
    together = graph.constant("heads_together", np.array([0, 0, dim], dtype=np.int64))
    words = graph.constant("words", weights["embeddings.word_embeddings.weight"])
    # Every token is of the first segment.
    positions = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    n_tokens = graph.add("Shape", "input_ids", start=1, end=2)
    start = graph.constant("start", np.array([0], dtype=np.int64))
    place = graph.add("Slice", graph.constant("positions", positions[:max_tokens]), start, n_tokens)
    x = norm(graph.add("Add", graph.add("Gather", words, "input_ids"), place), "embeddings.LayerNorm")
    for number in range(shape.n_layers):
        layer = f"encoder.layer.{number}"
        query = heads(dense(x, f"{layer}.attention.self.query", size**-0.5), [0, 2, 1, 3])
        key = heads(dense(x, f"{layer}.attention.self.key"), [0, 2, 3, 1])
        value = heads(dense(x, f"{layer}.attention.self.value"), [0, 2, 1, 3])
        attention = graph.add("Softmax", graph.add("MatMul", query, key), axis=-1)
        mixed = graph.add("Transpose", graph.add("MatMul", attention, value), perm=[0, 2, 1, 3])
        mixed = dense(graph.add("Reshape", mixed, together), f"{layer}.attention.output.dense")
        x = norm(graph.add("Add", mixed, x), f"{layer}.attention.output.LayerNorm")
        wide = graph.add("Gelu", dense(x, f"{layer}.intermediate.dense"))
        x = norm(graph.add("Add", dense(wide, f"{layer}.output.dense"), x), f"{layer}.output.LayerNorm")
    mean = graph.add("ReduceMean", x, graph.constant("tokens", np.array([1], dtype=np.int64)), keepdims=0)
    return graph.finish("full_encoder", mean, dim)


def quantize_bert(model: bytes) -> bytes:
    """Return the int8 form of a ``bert_graph``: weights by column, activations at run time (dynamic).

    One scale for a whole matrix, onnxruntime's default, costs a lot: mean cosine to float32 of 0.961 against 0.994 on
    60 prompts.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        plain.write_bytes(model)
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)  # advice on other kinds of graphs, given by the root logger
        try:
            quantize_dynamic(plain, small, weight_type=QuantType.QInt8, per_channel=True)
        finally:
            logging.disable(disabled)
        made = onnx.load(small)
    made.producer_name, made.ir_version = "whichmodel", IR_VERSION
    serialized: bytes = made.SerializeToString(deterministic=True)
    return serialized


@dataclass(frozen=True, slots=True)
class Parity:
    """Cosines between the vectors of two encoders for the same texts: the lowest and the mean."""

    lowest: float
    mean: float
    n_texts: int


def export(
    base: Path,
    out: Path,
    *,
    precision: str = "int8",
    max_tokens: int | None = None,
    truncation: str = "middle",
    name: str | None = None,
    texts: Sequence[str],
    canary_texts: Sequence[str],
) -> tuple[EncoderSettings, dict[str, Parity]]:
    """Write a sentence-transformers directory as an encoder directory of the full tier.

    precision: 'fp32' or 'int8'. texts: what the parity with PyTorch is measured on. Returns the settings, and the
    parity of the float32 graph and, for int8, of the file that was written.

    Raises:
        ConfigError: an option is out of range.
        EncoderError: ``base`` cannot be loaded, ``out`` exists or cannot be written, or the float32 graph does not give
            PyTorch's vectors.
    """
    from training.torch_encoder import SentenceEncoder

    if out.exists():
        raise EncoderError(f"{out}: exists already, expected the name of a new directory")
    torch_encoder = SentenceEncoder(base, max_tokens=max_tokens, truncation=truncation, device="cpu")
    config = torch_encoder.network.config
    shape = BertShape(config.num_hidden_layers, config.num_attention_heads, config.hidden_size, config.layer_norm_eps)
    weights = {key: value.numpy() for key, value in torch_encoder.network.state_dict().items()}
    plain = bert_graph(weights, shape, torch_encoder.settings.max_tokens)
    settings = replace(torch_encoder.settings, name=name or f"{torch_encoder.settings.name}-{precision}")
    wanted = np.vstack([torch_encoder.embed([torch_encoder.token_ids(text)]) for text in texts])
    parity = {}
    models = {"fp32": plain} if precision == "fp32" else {"fp32": plain, "int8": quantize_bert(plain)}
    for kind, model in models.items():
        files = {
            "tokenizer.json": torch_encoder.tokenizer_json.encode(),
            "model.onnx": model,
            "encoder.json": _settings_json(settings),
        }
        cosines = (embed(OnnxEncoder(files, where=str(out)), texts) * wanted).sum(axis=1)
        parity[kind] = Parity(float(cosines.min()), float(cosines.mean()), len(texts))
    lowest = parity["fp32"].lowest
    if not lowest > PARITY_COSINE:
        raise EncoderError(f"{base}: the exported graph gives other vectors than PyTorch, cosine {lowest:.6f} at least")
    made = write_encoder(
        out, settings, tokenizer_json=torch_encoder.tokenizer_json, model=models[precision], canary_texts=canary_texts
    )
    return made, parity


class _Graph:
    """Nodes in order, each with one output that is named by its number, and constants by name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def finish(self, name: str, pooled: str, dim: int) -> bytes:
        """Return the serialized model: ``pooled``, float32 (1, dim), scaled to unit length is its output."""
        self.nodes.append(helper.make_node("LpNormalization", [pooled], ["embedding"], axis=1, p=2))
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "n_tokens"])],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, dim])],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="whichmodel")
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
