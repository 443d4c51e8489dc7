"""The sparse head of an M3 model as a module of sentence-transformers, which has none like it.

This file stands beside an exported model, and is loaded from there with `trust_remote_code=True`.
Shapes: B texts, T tokens, H hidden, V vocabulary.
"""

import shutil
from pathlib import Path

import torch
from sentence_transformers.base.modules import Module
from sentence_transformers.util.tensor import repad_flattened_features


class LexicalWeights(Module):
    """w_t = ReLU(W . H[t] + b) of each token; of an id that occurs several times the largest."""

    config_keys = ["hidden", "vocabulary", "weightless_ids"]  # noqa: RUF012 (a list there)

    def __init__(self, hidden: int, vocabulary: int, weightless_ids: list[int]) -> None:
        """weightless_ids are those of special tokens, whose weight is 0."""
        super().__init__()
        self.hidden, self.vocabulary, self.weightless_ids = hidden, vocabulary, weightless_ids
        self.linear = torch.nn.Linear(hidden, 1)

    def forward(self, features, **kwargs):
        """token_embeddings (B, T, H), input_ids (B, T) -> sentence_embedding (B, V)."""
        if "cu_seq_lens_q" in features:  # packed, for flash attention
            features = repad_flattened_features(features)
        ids, states = features["input_ids"], features["token_embeddings"]
        weights = self.linear(states.to(self.linear.weight.dtype)).squeeze(-1).relu()
        weightless = torch.tensor(self.weightless_ids, device=ids.device)
        counted = features["attention_mask"].bool() & ~torch.isin(ids, weightless)
        out = weights.new_zeros(len(ids), self.vocabulary)
        features["sentence_embedding"] = out.scatter_reduce(1, ids, weights * counted, "amax")
        return features

    def get_embedding_dimension(self):
        """V."""
        return self.vocabulary

    def save(self, output_path, *args, safe_serialization=True, **kwargs):
        """Writes the sizes and the linear layer."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)
        # sentence-transformers copies this file there, and looks for it in the folder above
        shutil.copy(__file__, Path(output_path).parent)

    @classmethod
    def load(
        cls,
        model_name_or_path,
        subfolder="",
        token=None,
        cache_folder=None,
        revision=None,
        local_files_only=False,
        **kwargs,
    ):
        """Reads what `save` wrote, from a folder or the hub."""
        where = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        module = cls(**cls.load_config(model_name_or_path, **where))
        return cls.load_torch_weights(model_name_or_path, model=module, **where)
