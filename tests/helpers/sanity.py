"""The sanity check of one method, written as a plain loop over the stages."""

from __future__ import annotations

import torch

from ssgcam.metrics import cascade, constant_maps, rank_correlation, sanity_result


def sanity_check(network, explain, control, *, names=None, seed=0, **options):
    """Compare the maps of ``explain(network)`` with those of each randomized network."""
    originals = explain(network).detach().clone(), control(network).detach().clone()
    stages, method, other, vanished = [], [], [], []
    for name, randomized in cascade(network, names, seed):
        maps = explain(randomized).detach()
        stages.append(name or "(root)")
        method.append(rank_correlation(originals[0], maps))
        other.append(rank_correlation(originals[1], control(randomized).detach()))
        vanished.append(constant_maps(maps))
    rows = (torch.stack(each, 1) for each in (method, other, vanished))
    return sanity_result(stages, *rows, keep=~constant_maps(originals[0]), seed=seed, **options)
