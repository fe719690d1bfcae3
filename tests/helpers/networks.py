"""Small networks for the tests of the core, and a picture of all that a call must leave alone."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vgg import make_layers


class Small(nn.Module):
    """Two convolutions, in-place ReLUs, pooling and three classes."""

    def __init__(self, classes: int = 3, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(4)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.act2 = activation()
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.act1(self.norm1(self.conv1(images)))
        x = self.act2(self.conv2(x))
        # not plain average pooling, which would make the gradient constant over the map
        x = F.adaptive_max_pool2d(x, 2).flatten(2).mean(2) + x.mean((2, 3))
        return self.fc(self.drop(x))


class Smooth(nn.Module):
    """Attention and GELU between the layer ``stem`` (tokens) and the logits: a true Hessian."""

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.mix = nn.Conv2d(width, width, 2)
        self.attention = nn.MultiheadAttention(width, 1, batch_first=True)
        self.fc = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stem(images))

    def head(self, x: Tensor) -> Tensor:
        tokens = F.gelu(self.mix(x)).flatten(2).transpose(1, 2)
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        logits: Tensor = self.fc((tokens + mixed).mean(1))
        return logits


class TinyViT(nn.Module):
    """A plain vision transformer with prefix tokens, for images of any proportions."""

    def __init__(
        self,
        height: int,
        width: int,
        patch: int = 8,
        prefix: int = 1,
        blocks: int = 2,
        dim: int = 8,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, patch, stride=patch)
        self.prefix = nn.Parameter(torch.randn(1, prefix, dim))
        count = prefix + (height // patch) * (width // patch)
        self.position = nn.Parameter(torch.randn(1, count, dim))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    dim, 2, 2 * dim, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(blocks)
            )
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(images), -1, -1), tokens], 1) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return logits


def state_of(network: nn.Module) -> dict[str, Any]:
    """Everything of a network that a call must not change, comparable with ``==``."""
    hooks = [
        "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
        "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks",
    ]  # fmt: skip
    return {
        "training": [module.training for module in network.modules()],
        "hooks": [len(getattr(module, kind)) for module in network.modules() for kind in hooks],
        "attributes": [sorted(module.__dict__) for module in network.modules()],
        "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
        "grad": [
            None if parameter.grad is None else (id(parameter.grad), digest(parameter.grad))
            for parameter in network.parameters()
        ],
        "values": {key: digest(value) for key, value in network.state_dict().items()},
    }


def digest(tensor: Tensor) -> str:
    """Equal for equal values."""
    return hashlib.sha256(
        tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
    ).hexdigest()


def small_vgg() -> nn.Module:
    """VGG's in-place ReLUs and poolings without its huge classifier."""
    features = make_layers([8, "M", 16, 16, "M", 32], batch_norm=False)  # type: ignore[list-item]
    head = [
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 32),
        nn.ReLU(True),
        nn.Linear(32, 4),
    ]
    return nn.Sequential(OrderedDict(features=features, head=nn.Sequential(*head)))


class Constant(nn.Module):
    """Class 0 looks at the picture, class 1 against it, class 2 not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        bright = self.layer(images).mean((1, 2, 3))
        return torch.stack([bright, -bright, 0 * bright], 1)


class Bright(nn.Module):
    """A network that finds the object: class 1 wherever something is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.act = nn.ReLU()
        with torch.no_grad():
            self.conv.weight.fill_(1.0)
            self.conv.bias.copy_(torch.tensor([-2.0, -2.4]))

    def forward(self, images: Tensor) -> Tensor:
        x = self.act(self.conv(images)).mean((2, 3))
        return torch.stack([0.3 - x[:, 0], 20 * x[:, 1]], 1)
