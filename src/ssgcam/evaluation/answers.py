"""A network's class probabilities, by the network or its faster copy."""

from __future__ import annotations

import torch
from torch import Tensor

from ssgcam.core.fast import FastCopy
from ssgcam.core.network import unwrap
from ssgcam.core.target import logits_of
from ssgcam.models import LoadedModel


class Answers:
    """Class probabilities of a network's inputs, without gradients.

    ``fast=True`` asks the network's faster copy, see ``core.fast``.

    Args:
        model: In eval mode when it is asked.
        fast: Ask the copy.
    """

    def __init__(self, model: LoadedModel, fast: bool = False) -> None:
        self.model = model
        self._network = unwrap(model.network)
        self._fast = FastCopy(self._network) if fast else None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Probabilities ``[N, K]`` in float32 of normalized or :meth:`ready` inputs ``[N, 3, H, W]``."""
        with torch.no_grad():
            network = self._network
            if self._fast is not None:
                probe = inputs[:1].to(next(network.parameters()).dtype)
                network = self._fast(probe, ())
                inputs = self.ready(inputs).contiguous(memory_format=torch.channels_last)
            return self.model.probabilities(logits_of(network(inputs)).float())

    def ready(self, inputs: Tensor) -> Tensor:
        """Inputs in the number format of the passes, so that it is done once."""
        dtype = None if self._fast is None else self._fast.dtype
        return inputs if dtype is None else inputs.to(dtype)
