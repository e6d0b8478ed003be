"""SigLIP's vision tower for a fixed number of pictures: the same weights, fewer and larger operations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt_ros.model.fast.kernels import Kernels, attention_by, gelu_linear
from rdt_ros.model.vision import SiglipEncoder


class FastTower:
    """`SiglipEncoder.tokens` with query, key and value in one product, and residual and norm in one kernel.

    Each layer's three weights become views of one, so that they are held once and the plain tower still works.
    """

    def __init__(self, encoder: SiglipEncoder, kernels: Kernels, attention: str = "auto") -> None:
        tower: Any = encoder.tower
        self._kernels = kernels
        self._attention = attention
        self._patch = tower.config.patch_size
        self._grid = tower.config.image_size // self._patch
        self._epsilon = tower.config.layer_norm_eps
        self._embeddings = tower.embeddings
        self._layers = list(tower.encoder.layers)
        self._last_norm = tower.post_layernorm
        self._joined = [_join(layer.self_attn) for layer in self._layers]
        self._heads = tower.config.num_attention_heads

    def tokens(self, images: Tensor) -> Tensor:
        """(n, 3, size, size) in -1..1, in the weights' type -> (n, patches, width)."""
        first, *rest = [layer.layer_norm1 for layer in self._layers] + [self._last_norm]
        x = self._embed(images)
        h = F.layer_norm(x, x.shape[-1:], first.weight, first.bias, self._epsilon)
        for layer, joined, after in zip(self._layers, self._joined, rest, strict=True):
            answer = self._attend(F.linear(h, *joined), len(images))
            out, norm, mlp = layer.self_attn.out_proj, layer.layer_norm2, layer.mlp
            x, h = self._add(x, F.linear(answer, out.weight, out.bias), norm)
            hidden = gelu_linear(h, mlp.fc1.weight, mlp.fc1.bias)
            x, h = self._add(x, F.linear(hidden, mlp.fc2.weight, mlp.fc2.bias), after)
        return h.unflatten(0, (len(images), -1))

    def _embed(self, images: Tensor) -> Tensor:
        """Patches through their Linear, with positions: (n * patches, width)."""
        side, patch, linear = self._grid * self._patch, self._patch, self._embeddings.patch_embedding
        squares = images[:, :, :side, :side].unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
        patches = squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        positions = self._embeddings.position_embedding.weight
        return (F.linear(patches, linear.weight.flatten(1), linear.bias) + positions).flatten(0, 1)

    def _attend(self, joined: Tensor, pictures: int) -> Tensor:
        """Query, key and value (n * patches, 3 * width) -> (n * patches, width)."""
        q, k, v = joined.unflatten(-1, (3, self._heads, -1)).unflatten(0, (pictures, -1)).permute(2, 0, 3, 1, 4)
        with attention_by(self._attention, q):
            answer = F.scaled_dot_product_attention(q, k, v)
        return answer.transpose(1, 2).flatten(2).flatten(0, 1)

    def _add(self, x: Tensor, y: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        return self._kernels.add_layer_norm(x, y, norm.weight, norm.bias, self._epsilon)


@torch.inference_mode(False)
@torch.no_grad()
def _join(attention: Any) -> tuple[Tensor, Tensor]:
    """One weight and one bias of query, key and value; the attention's own become views of them."""
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    weight = torch.cat([part.weight for part in parts])
    bias = torch.cat([part.bias for part in parts])
    for part, own_weight, own_bias in zip(parts, weight.chunk(3), bias.chunk(3), strict=True):
        part.weight = nn.Parameter(own_weight, requires_grad=False)
        part.bias = nn.Parameter(own_bias, requires_grad=False)
    return weight, bias
