"""Several networks of one architecture as one: their maps are averaged layer by layer.

Networks that were trained alike err differently, and so do their maps. A search on maps that are
averaged over the networks has the same genes as a search on one of them; the recipe it finds is then
written out for :class:`Ensemble`, each layer once for each network, so that it stays a plain recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ssgcam import LoadedModel, Recipe
from ssgcam.search.cache import MapCache


class Ensemble(nn.Module):
    """The mean of several networks' logits."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Keep the networks as ``networks.0``, ``networks.1`` and so on."""
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """``[N, K]``."""
        return torch.stack([network(images) for network in self.networks]).mean(0)


def ensemble(models: Sequence[LoadedModel]) -> LoadedModel:
    """Networks of one preprocessing and the same classes as one network."""
    first = models[0]
    assert all(each.preprocessing == first.preprocessing for each in models)
    assert all(each.class_names == first.class_names for each in models)
    return replace(first, network=Ensemble([each.network for each in models]).eval())


def averaged(caches: Sequence[MapCache]) -> MapCache:
    """The mean of caches of the same images, layers and grid, in the format they are kept in."""
    first = caches[0]
    kept = [each.values if each.packed is None else each.packed for each in caches]
    mean = torch.empty_like(kept[0])
    for number in range(len(mean)):
        total = torch.stack([each[number].float() for each in kept]).mean(0)
        mean[number] = total if mean.is_floating_point() else total.round()
    if first.packed is None:
        return replace(first, values=mean)
    cells = first.values.shape[-1]
    return replace(first, values=mean[..., :cells], packed=mean)


def written_out(recipe: Recipe, count: int) -> Recipe:
    """A recipe on averaged maps, for an ensemble of ``count`` networks."""
    layers = tuple(
        replace(layer, name=f"networks.{number}.{layer.name}", weight=layer.weight / count)
        for layer in recipe.layers
        for number in range(count)
    )
    return replace(recipe, layers=layers)
