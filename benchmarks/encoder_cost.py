"""What an encoder costs: time by length beside its bare network, bytes on disk, memory; and whether it is PyTorch's."""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from encoder_zoo import BASE_FP32, MODEL2VEC_OWN, TF_IDF, TORCH, Candidate, TfIdf
from prompt_mix import texts_of_length
from timing import measure
from tokenizers import Tokenizer

from router.encoder import OnnxEncoder, embed

LENGTHS = (8, 20, 32, 64, 128, 256)
BARE = "{}, bare"

# What each process imports, then what it loads and runs once. The high-water mark of its own address space is read,
# not ru_maxrss: that one a child inherits from the process that started it.
MEMORY = """
import sys
{imports}
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
before, where = peak(), sys.argv[1]
{load}
print((peak() - before) / 1024)
"""
ONNX = ("from router.encoder import OnnxEncoder", "encoder = OnnxEncoder.load(where)\nencoder.encode('warm up')")
SENTENCE = (
    "from sentence_transformers import SentenceTransformer",
    "encoder = SentenceTransformer(where, device='cpu', local_files_only=True)\nencoder.encode('warm up')",
)
TABLE = (
    "from model2vec import StaticModel",
    "encoder = StaticModel.from_pretrained(where)\nencoder.encode('warm up')",
)
PICKLED = (
    "import joblib, sklearn.decomposition, encoder_zoo",
    "encoder = joblib.load(where)\nencoder.encode('warm up')",
)


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """A loaded encoder as one would call it. place: its file or directory. memory: how a bare process loads it."""

    encode: Callable[[str], object]
    place: Path
    memory: tuple[str, str]
    onnx: OnnxEncoder | None = None


def load_all(
    candidates: Mapping[str, Candidate], base: Path, index: Sequence[str], folder: Path, max_tokens: int
) -> dict[str, Timed]:
    """Load every encoder, and the libraries that the base and the table come from. index: what TF-IDF is fitted to."""
    found = {}
    for name, one in candidates.items():
        if one.directory is not None:
            encoder = OnnxEncoder.load(one.directory)
            found[name] = Timed(encoder.encode, one.directory, ONNX, encoder)
    if TF_IDF in candidates:
        words = TfIdf(index)
        joblib.dump(words, folder / "tf-idf.joblib")
        found[TF_IDF] = Timed(words.encode, folder / "tf-idf.joblib", PICKLED)
    if BASE_FP32 in candidates:
        found[TORCH] = _sentence_transformers(base, max_tokens)
    if "model2vec" in candidates:
        found[MODEL2VEC_OWN] = _model2vec(base, folder / "model2vec-own")
    return found


def _sentence_transformers(base: Path, max_tokens: int) -> Timed:
    from sentence_transformers import SentenceTransformer

    from training.torch_encoder import quiet

    with quiet():
        model = SentenceTransformer(str(base), device="cpu", local_files_only=True)
    model.max_seq_length = max_tokens
    return Timed(lambda text: model.encode(text, normalize_embeddings=True, show_progress_bar=False), base, SENTENCE)


def _model2vec(base: Path, place: Path) -> Timed:
    from model2vec import StaticModel

    from training.distill import MAX_TOKENS, static_model

    made = static_model(base, dim=256, seed=0, progress=False)
    model = StaticModel(made.vectors, Tokenizer.from_str(made.tokenizer_json), normalize=True, max_length=MAX_TOKENS)
    model.save_pretrained(place)
    return Timed(lambda text: model.encode([text]), place, TABLE)


def latencies(
    timed: Mapping[str, Timed], texts: Sequence[str], n: int, advance: Callable[[str], object]
) -> dict[str, dict[str, Any]]:
    """Return, per encoder and number of tokens, quantiles in ms of encode, and of the bare network on the same ids."""
    tokenizer = next(one.onnx for one in timed.values() if one.onnx is not None).files["tokenizer.json"]
    out: dict[str, dict[str, Any]] = {name: {} for name in timed}
    for length in LENGTHS:
        advance(f"latency at {length} tokens")
        own = texts_of_length(texts, Tokenizer.from_buffer(tokenizer), length)
        calls: dict[str, Callable[[int], object]] = {}
        for name, one in timed.items():
            calls[name] = _call(one.encode, own)
            if one.onnx is not None:
                calls[BARE.format(name)] = _call(one.onnx.run, [one.onnx.token_ids(text) for text in own])
        found = measure(calls, n)
        for name in timed:
            encode, bare = found[name], found.get(BARE.format(name))
            out[name][str(length)] = {
                "p50": encode["p50"],
                "p99": encode["p99"],
                "bare_p50": bare["p50"] if bare else None,
                "bare_p99": bare["p99"] if bare else None,
                "encode_over_bare": encode["p50"] / bare["p50"] if bare else None,
            }
    return out


def _call(function: Callable[[Any], object], inputs: Sequence[Any]) -> Callable[[int], object]:
    return lambda at: function(inputs[at % len(inputs)])


def disk_mib(place: Path) -> float:
    """Return the size of a file, or of what lies in a directory."""
    files = [place] if place.is_file() else [one for one in place.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files) / 2**20


def memory_mib(one: Timed) -> float:
    """Return by how much loading and one run raise the peak memory of a process that has imported what it needs."""
    imports, load = one.memory
    code = MEMORY.format(imports=imports, load=load)
    command = [sys.executable, "-c", code, str(one.place.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    return float(done.stdout.split()[-1])


def parity(pairs: Mapping[str, tuple[Path, Path]], texts: Sequence[str]) -> dict[str, Any]:
    """Return the lowest and mean cosine between an ONNX float32 encoder and PyTorch on the same token ids.

    pairs: name to (encoder directory, sentence-transformers directory).
    """
    from training.torch_encoder import SentenceEncoder

    out = {}
    for name, (directory, base) in pairs.items():
        encoder = OnnxEncoder.load(directory)
        settings = encoder.settings
        torch = SentenceEncoder(base, max_tokens=settings.max_tokens, truncation=settings.truncation, device="cpu")
        wanted = np.vstack([torch.embed([torch.token_ids(text)]) for text in texts])
        cosines = (embed(encoder, texts) * wanted).sum(axis=1)
        out[name] = {"lowest": float(cosines.min()), "mean": float(cosines.mean()), "n": len(texts)}
    return out
