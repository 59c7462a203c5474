"""Other people's routers as programs to time, over llmrouter's rows labelled by their best model.

Needs the extra ``encoders`` and semantic-router. Both embed with all-MiniLM-L6-v2 from a local directory, as their own
documentation does; what they choose is compared in quality.py, not here. Also a server for each of them:

    python benchmarks/peer_routers.py semantic-router|knn [N_THREADS]
"""

import hashlib
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Everything is on this disk: without these, libraries ask a model hub for newer files and wait for it.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import numpy as np
from numpy.typing import NDArray
from record import data_folder

from training import load
from training.torch_encoder import default_base, quiet

SEMANTIC_ROUTER, KNN = "semantic-router", "knn"
N_NEIGHBORS = 40
"""RouterBench's k; the time hardly depends on it."""
MAX_TOKENS = 256
"""What all-MiniLM-L6-v2 was made for, and sentence-transformers' own limit for it."""
CACHE = Path("build/bench/latency")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Prompts, the best model of each, and unit vectors float32 (n, 384)."""

    prompts: list[str]
    models: list[str]
    vectors: NDArray[np.float32]


def rows() -> Rows:
    """Return llmrouter's training rows; their vectors are kept between runs."""
    log = load(data_folder() / "llmrouter" / "train.parquet")
    prompts = [one.prompt for one in log.comparisons]
    models = [max(one.scores, key=one.scores.__getitem__) for one in log.comparisons]
    digest = hashlib.sha256("\0".join(prompts).encode("utf-8", "replace")).hexdigest()
    cached = CACHE / f"minilm-{digest[:16]}.npy"
    if not cached.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        np.save(cached, sentence_encoder().encode(prompts, normalize_embeddings=True, show_progress_bar=False))
    return Rows(prompts, models, np.load(cached))


def sentence_encoder():
    """Return MiniLM as sentence-transformers runs it."""
    from sentence_transformers import SentenceTransformer

    with quiet():
        model = SentenceTransformer(str(default_base()), device="cpu", local_files_only=True)
    model.max_seq_length = MAX_TOKENS
    return model


def semantic_router(rows: Rows) -> Callable[[str], str | None]:
    """Return semantic-router's IndexedRouter: a route per model, the rows as utterances, all settings its own.

    Its index is given the vectors; otherwise it would encode all rows anew at every start.
    """
    from semantic_router import IndexedRouter
    from semantic_router.encoders import HuggingFaceEncoder
    from semantic_router.index import LocalIndex

    with quiet():
        encoder = HuggingFaceEncoder(
            name=str(default_base()), device="cpu", tokenizer_kwargs={"model_max_length": MAX_TOKENS}
        )
    index = LocalIndex()
    index.add(embeddings=rows.vectors.tolist(), routes=rows.models, utterances=rows.prompts)
    router = IndexedRouter(encoder=encoder, index=index)
    return lambda prompt: router(prompt).name


def nearest_neighbors(rows: Rows) -> Callable[[str], str]:
    """Return sentence-transformers and scikit-learn's nearest neighbours, as RouterBench and LLMRouter join them."""
    from sklearn.neighbors import KNeighborsClassifier

    encoder = sentence_encoder()
    neighbors = KNeighborsClassifier(N_NEIGHBORS, metric="cosine", algorithm="brute").fit(rows.vectors, rows.models)

    def route(prompt: str) -> str:
        vector = encoder.encode([prompt], normalize_embeddings=True, show_progress_bar=False)
        return str(neighbors.predict(vector)[0])

    return route


PEERS: dict[str, Callable[[Rows], Callable[[str], str | None]]] = {
    SEMANTIC_ROUTER: semantic_router,
    KNN: nearest_neighbors,
}


def peer(name: str, n_threads: int | None = None) -> Callable[[str], str | None]:
    """Return a peer that is ready to route. n_threads: of PyTorch; None: as many as it takes by itself."""
    import torch

    if n_threads is not None:
        torch.set_num_threads(n_threads)
    return PEERS[name](rows())


def main() -> None:
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    route = peer(sys.argv[1], *(int(one) for one in sys.argv[2:]))

    class Request(BaseModel):
        prompt: str

    app = FastAPI()

    # async: called on the loop itself, one at a time, which spares the way to FastAPI's threads and back.
    @app.post("/route")
    async def endpoint(request: Request) -> dict[str, str | None]:
        return {"model": route(request.prompt)}

    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[listener])


if __name__ == "__main__":
    main()
