"""Another library behind FastAPI as people write it, for serve.py: POST /v1/embeddings.

    python serve_peers.py float32|bfloat16 MODEL PORT     sentence-transformers

Runs in the peers' environment; imports nothing of ours.
"""

import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class EmbeddingRequest(BaseModel):
    """The part of OpenAI's request that is used."""

    input: str | list[str]
    model: str = ""


def application(model: SentenceTransformer) -> FastAPI:
    """One route; FastAPI runs it in a pool of threads."""
    app = FastAPI()

    def alive() -> dict[str, str]:
        return {"status": "ok"}

    def embeddings(request: EmbeddingRequest) -> dict[str, Any]:
        texts = [request.input] if isinstance(request.input, str) else request.input
        vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        rows = [
            {"object": "embedding", "index": index, "embedding": vector.tolist()}
            for index, vector in enumerate(vectors)
        ]
        return {"object": "list", "data": rows, "model": request.model}

    app.add_api_route("/", alive)
    app.add_api_route("/v1/embeddings", embeddings, methods=["POST"])
    return app


if __name__ == "__main__":
    dtype, folder, port = sys.argv[1:]
    loaded = SentenceTransformer(
        folder, device="cpu", model_kwargs={"torch_dtype": getattr(torch, dtype)}
    )
    loaded.encode(["warm"])
    uvicorn.run(application(loaded), host="127.0.0.1", port=int(port), log_level="warning")
