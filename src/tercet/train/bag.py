"""A bag of tokens with learned importance: the first, cheap stage of a model from nothing.

It is the first attention layer of the trunk as its [CLS] sees it, so that what it learns becomes
the start of a trunk (`grow`) without loss. Knows nothing of files. Shapes: B texts, T tokens of the
longest, H hidden, A attention heads.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tercet.backbone import BackboneConfig, Layer
from tercet.model import M3Model
from tercet.train.losses import log_shares


class Bag(nn.Module):
    """Word embeddings, a norm, and one importance vector per attention head."""

    def __init__(self, vocabulary: int, hidden: int, heads: int, pad_id: int) -> None:
        super().__init__()
        self.heads, self.pad_id = heads, pad_id
        self.words = nn.Embedding(vocabulary, hidden)
        nn.init.normal_(self.words.weight, std=0.05)
        self.norm = nn.LayerNorm(hidden)
        self.importance = nn.Parameter(torch.randn(heads, hidden) * 0.01)
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) padded ids -> (B, H) unit vectors."""
        x = self.norm(self.words(ids))  # (B, T, H)
        keys = (x @ self.importance.T).masked_fill((ids == self.pad_id)[..., None], float("-inf"))
        shares = keys.softmax(1).transpose(1, 2).unsqueeze(2)  # (B, A, 1, T)
        values = x.view(*ids.shape, self.heads, -1).transpose(1, 2)  # (B, A, T, H / A)
        pooled = (shares @ values).flatten(1)  # (B, H)
        return F.normalize(F.layer_norm(pooled + self.bias, pooled.shape[-1:]), dim=-1)


@dataclass(frozen=True)
class BagLoss:
    """Weights of the bag's losses; chosen on the dev sets."""

    temperature: float = 0.05
    teacher_cosine: float = 2.0
    teacher_contrast: float = 0.5


def bag_loss(
    queries: Tensor,
    passages: Tensor,
    mask: Tensor,
    targets: list[tuple[Tensor, Tensor, Tensor]],
    config: BagLoss,
) -> Tensor:
    """InfoNCE both ways, plus the pull to an outside teacher.

    queries, passages (B, H); mask (B, B) of competitors. Each target is (vectors (K, H), rows (K,),
    teacher vectors (K, H)): those rows should land on the teacher's vectors, by cosine and by
    InfoNCE among them.
    """
    scores = queries @ passages.T
    tau = config.temperature
    loss = (diagonal_nce(scores, mask, tau) + diagonal_nce(scores.T, mask.T, tau)) / 2
    for vectors, rows, wanted in targets:
        picked = vectors[rows]
        loss = loss + config.teacher_cosine * (1 - (picked * wanted).sum(-1)).mean()
        among = mask[rows][:, rows]
        loss = loss + config.teacher_contrast * diagonal_nce(picked @ wanted.T, among, tau)
    return loss


def diagonal_nce(scores: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Mean InfoNCE of a square score matrix whose positives lie on the diagonal."""
    return -log_shares(scores, mask, temperature).diagonal().mean()


@torch.no_grad()
def grow(bag: Bag, config: BackboneConfig, model: M3Model, *, seed: int, cls_id: int) -> None:
    """Starts a fresh model from a bag: its [CLS] state equals the bag's vector but for small noise.

    Layer 1 attends by importance alone (query: a constant; key: importance; value and output: the
    identity); what later layers add starts small. The heads start from the token's own state:
    multi an orthogonal projection, sparse a positive constant plus importance.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor, std: float) -> None:
        tensor.normal_(0.0, std, generator=generator)

    trunk, hidden, size = model.backbone, config.hidden, config.hidden // config.heads
    trunk.words.weight.copy_(bag.words.weight)
    trunk.norm.load_state_dict(bag.norm.state_dict())
    trunk.places.weight.copy_(waves(config.positions, hidden) * 0.1 * bag.words.weight.std())
    trunk.kind.zero_()
    for number, layer in enumerate(trunk.layers):
        if not isinstance(layer, Layer):
            raise TypeError(f"layer {number} of the trunk is a {type(layer).__name__}")
        for linear, std in ((layer.qkv, 0.02), (layer.out, 0.002), (layer.up, 0.05)):
            noise(linear.weight, std)
            linear.bias.zero_()
        noise(layer.down.weight, 0.002)
        layer.down.bias.zero_()
        if number:
            continue
        queries, keys, values = layer.qkv.weight.chunk(3)
        queries.mul_(0.1)
        keys.mul_(0.1)
        values.copy_(torch.eye(hidden))
        layer.qkv.bias[:hidden:size] = size**0.5
        keys[::size] = bag.importance
        layer.out.weight.copy_(torch.eye(hidden))
        first = trunk.norm(bag.words.weight[cls_id] + trunk.places.weight[config.pad_id + 1])
        layer.out.bias.copy_(bag.bias - first)
    if model.sparse is not None:
        model.sparse.weight.copy_(bag.importance.mean(0, keepdim=True) * 0.1)
        model.sparse.bias.fill_(0.3)
    if model.multi is not None:
        square = torch.empty(hidden, hidden)
        nn.init.orthogonal_(square, generator=generator)
        model.multi.weight.copy_(square[: model.multi.out_features])
        model.multi.bias.zero_()


def waves(positions: int, hidden: int) -> Tensor:
    """Sinusoids of geometric wavelengths, (positions, hidden): every position has a start."""
    at = torch.arange(positions, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, hidden, 2) * (-9.21 / hidden))  # 1 to 1 / 10,000
    return torch.stack(((at * rate).sin(), (at * rate).cos()), dim=-1).flatten(1)[:, :hidden]
