"""A network's class probabilities, at a stated precision."""

from __future__ import annotations

import torch
from torch import Tensor

from ssgcam.core.fast import FastCopy
from ssgcam.core.network import forward_pass, unwrap
from ssgcam.core.settings import Precision
from ssgcam.core.target import logits_of
from ssgcam.models import LoadedModel


class Answers:
    """Class probabilities of a network's inputs, without gradients.

    ``"exact"`` asks the network itself. ``"fast"`` asks its copy with batch norms folded and channels
    last, which changes nothing but the order of rounding; ``"bfloat16"`` the same copy in bfloat16,
    whose probabilities are approximate (docs/benchmarks/perturbation_speed.md).

    Args:
        model: In eval mode when it is asked.
        precision: Which of these.
    """

    def __init__(self, model: LoadedModel, precision: Precision = "exact") -> None:
        self.model = model
        self._network = unwrap(model.network)
        self._fast = None if precision == "exact" else FastCopy(self._network, precision)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Probabilities ``[N, K]`` in float32 of normalized or :meth:`ready` inputs ``[N, 3, H, W]``."""
        with torch.no_grad():
            network = self._network
            if self._fast is not None:
                probe = inputs[:1].to(next(network.parameters()).dtype)
                network = self._fast(probe, ())
                inputs = self.ready(inputs).contiguous(memory_format=torch.channels_last)
            return self.model.probabilities(logits_of(forward_pass(network, inputs)).float())

    def ready(self, inputs: Tensor) -> Tensor:
        """Inputs in the number format of the passes, so that it is done once."""
        dtype = None if self._fast is None else self._fast.dtype
        return inputs if dtype is None else inputs.to(dtype)
