"""What the models of texts begin and end with: embeddings that know of no padding, and means over tokens.

Shapes: B batch, L length, D features.
"""

from __future__ import annotations

from torch import Tensor, nn

INIT_STD = 0.1


class Embedding(nn.Module):
    """A vector for each token; zero for padding, whatever its weights."""

    def __init__(self, vocabulary: int, features: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, features, padding_idx=0)
        nn.init.normal_(self.table.weight, std=INIT_STD)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """[B, L] -> [B, L, D]."""
        out: Tensor = self.table(ids_BL) * (ids_BL != 0).unsqueeze(-1)
        return out


def token_mean(tokens_BLD: Tensor, there_BL: Tensor) -> Tensor:
    """The mean over the tokens that are there (bool [B, L]), [B, D]; zero where there is none."""
    there_BL1 = there_BL.unsqueeze(-1).to(tokens_BLD.dtype)
    return (tokens_BLD * there_BL1).sum(dim=1) / there_BL1.sum(dim=1).clamp(min=1.0)


class TokenMean(nn.Module):
    """The mean over the tokens that are there; zero where there is none."""

    def forward(self, tokens_BLD: Tensor, there_BL: Tensor) -> Tensor:
        """[B, L, D] and bool [B, L] -> [B, D]."""
        return token_mean(tokens_BLD, there_BL)


class Chain(nn.Module):
    """Modules in order, each of which also takes which tokens are there."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        for index, part in enumerate(parts):
            self.add_module(str(index), part)

    def forward(self, tokens_BLD: Tensor, there_BL: Tensor) -> Tensor:
        """[B, L, D] and bool [B, L] -> [B, L, D]."""
        out = tokens_BLD
        for part in self.children():
            out = part(out, there_BL)
        return out
