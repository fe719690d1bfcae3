"""Networks for ``--model helpers.factories:NAME``."""

import torch
from torch import Tensor, nn

from ssgcam import LoadedModel, Preprocessing

SMALL = Preprocessing(
    input_size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize_shorter=40
)
NAMES = ("apple", "pear", "green apple", "plum")


class Net(nn.Module):
    """Convolution, ReLU, mean, and a linear head whose weights have a chosen sign."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(8, len(NAMES))
        with torch.no_grad():
            self.conv.bias.fill_(0.5)
            self.head.weight.copy_(sign * self.head.weight.abs() + sign * 0.01)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.act(self.conv(images)).mean((2, 3)))


class NaNNet(Net):
    """Not a number for pictures brighter than ``limit`` on the whole."""

    limit = -10.0

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        bright = images.mean((1, 2, 3)) > self.limit
        return logits * torch.where(bright, torch.nan, 1.0)[:, None]


class NaNWhenBright(NaNNet):
    limit = 0.9


class TextNet(Net):
    def forward(self, images: Tensor) -> str:  # type: ignore[override]
        return "apple"


class GrayOnly(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images[:, :1])


def _loaded(network: nn.Module) -> LoadedModel:
    return LoadedModel(network, "tiny", SMALL, NAMES)


def tiny() -> LoadedModel:
    return _loaded(Net())


def without_evidence() -> LoadedModel:
    return _loaded(Net(-1.0))


def nan_network() -> LoadedModel:
    return _loaded(NaNNet())


def nan_when_bright() -> LoadedModel:
    return _loaded(NaNWhenBright())


def text_network() -> LoadedModel:
    return _loaded(TextNet())


def gray_only() -> LoadedModel:
    return _loaded(GrayOnly())


def five_channels() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(5, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip


def nothing() -> None:
    return None
