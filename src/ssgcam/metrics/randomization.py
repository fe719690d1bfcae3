"""Does a map depend on what the network learned? Cascading weight randomization.

Adebayo et al. 2018, "Sanity Checks for Saliency Maps" (NeurIPS): weights are randomized from the
top down; a map that stays the same depends on the image alone, not on what the network learned.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from ssgcam.errors import SsgcamError
from ssgcam.metrics.checks import check

#: Rank correlation from which the map of a control without gradients counts as the original one: then
#: only weights above its layer are random.
UNCHANGED = 0.999


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rho of each pair: Pearson's correlation of the ranks, ties averaged.

    Args:
        first: ``[N, ...]``.
        second: The same shape.

    Returns:
        ``[N]`` float64 in [-1, 1]; NaN where one is constant or holds a NaN.

    Raises:
        SsgcamError: If the shapes differ.
    """
    check(
        first.shape == second.shape and first.ndim >= 2,
        f"maps of {list(first.shape)} and {list(second.shape)} can't be correlated; "
        "pass two [N, ...] of one shape",
    )
    a, b = _centered_ranks(first), _centered_ranks(second)
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()


def stage_names(network: nn.Module) -> list[str]:
    """The modules that own parameters, last registered first: the stages of :func:`cascade`."""
    modules = [*network.named_modules()][::-1]
    return [name for name, m in modules if any(True for _ in m.parameters(recurse=False))]


def cascade(network: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Randomize a copy of the network from the top down, one module more at each stage.

    A randomized module is as untrained: weights of two and more dimensions are drawn from
    N(0, 2 / fan-in) (He et al. 2015, so that the signal neither dies nor explodes on its way
    through many random layers), one-dimensional weights (norms, scales) are 1, biases 0, and
    running statistics are reset. The network itself and the global random state stay as they are.

    Args:
        network: Any network that can be copied.
        seed: Fixes the weights.

    Yields:
        (name, copy): the same copy each time, with this module and all before it randomized, in the
            order of :func:`stage_names`.

    Raises:
        SsgcamError: If the network has no parameters or can't be copied.
    """
    names = stage_names(network)
    check(names, "the network has no weights to randomize; check what was passed")
    try:
        randomized = copy.deepcopy(network)
    except (RuntimeError, TypeError) as error:
        raise SsgcamError(
            f"the network can't be copied ({error}); pass the plain module"
        ) from error
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        _randomize(randomized.get_submodule(name), generator)
        yield name, randomized


def constant_maps(maps: Tensor) -> Tensor:
    """Which of the maps ``[N, ...]`` are constant or hold a value that isn't finite: ``[N]`` bool."""
    flat = maps.flatten(1)
    return ~(flat.isfinite().all(1) & (flat.amin(1) < flat.amax(1)))


def _centered_ranks(values: Tensor) -> Tensor:
    flat = values.detach().cpu().double().flatten(1)
    ranks = torch.from_numpy(rankdata(flat.numpy(), axis=1))
    return ranks - ranks.mean(1, keepdim=True)


@torch.no_grad()
def _randomize(module: nn.Module, generator: torch.Generator) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.ndim >= 2:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * (2 / parameter[0].numel()) ** 0.5)
        else:
            parameter.fill_(0.0 if "bias" in name else 1.0)
    reset = getattr(module, "reset_running_stats", None)
    if callable(reset):
        reset()
