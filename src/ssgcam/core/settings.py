"""The settings that the API, the command and the recipe file share: a name means the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from ssgcam.errors import SsgcamError

Form = Literal["taylor", "gradient", "sum"]
TargetName = Literal[
    "exp", "probability", "log_probability", "sigmoid", "odds", "logit", "mean_of_mask"
]
SecondOrder = Literal["squared", "hutchinson"]
Sign = Literal["positive", "absolute"]
Fusion = Literal["mean", "layer_cam", "product"]


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is not one of a ``Literal``'s, naming them."""
    allowed = get_args(choices)
    if value not in allowed:
        raise SsgcamError(f"{name} is {value!r}; choose one of {', '.join(allowed)}")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high] (also NaN)."""
    if not low <= value <= high:
        raise SsgcamError(f"{name} is {value}; it must be from {low:g} to {high:g}")


@dataclass(frozen=True)
class SSGSettings:
    """How SSG-CAM turns one layer's signals into a map; see ``core.methods.ssg_cam``.

    The defaults are the method ``discriminate``, which tells classes apart.

    Attributes:
        form: ``"sum"`` smooths the sums of the Taylor terms over channels, ``"taylor"`` each channel's
            Taylor terms, ``"gradient"`` each channel's bare gradients.
        sigma: Gaussian's standard deviation as a fraction of the map's shorter side, 0 to 1.
        first_exponent: Power of the first-order signal, 0 to 4.
        second_exponent: Power of the second-order signal, 0 to 4.
        cancellation: In the sum form, how much of the evidence against the class is subtracted from
            the evidence for it, 0 to 1.
        unsmoothed: In the sum form, the share of ``first_exponent`` that goes to the first order before
            it is smoothed, 0 to 1. None is 0, and 1/3 where a :class:`ssgcam.CAM` with one setting
            for all layers fuses several: there it tells classes apart better, while a single shallow
            layer breaks into dots.
    """

    form: Form = "sum"
    sigma: float = 0.08
    first_exponent: float = 1.5
    second_exponent: float = 0.25
    cancellation: float = 1.0
    unsmoothed: float | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        check_choice("form", self.form, Form)
        check_range("sigma", self.sigma, 0, 1)
        check_range("first_exponent", self.first_exponent, 0, 4)
        check_range("second_exponent", self.second_exponent, 0, 4)
        check_range("cancellation", self.cancellation, 0, 1)
        check_range("unsmoothed", self.unsmoothed or 0, 0, 1)
        if self.unsmoothed and self.form != "sum":
            raise SsgcamError(
                f"unsmoothed is {self.unsmoothed:g} with the {self.form} form; only the sum form has it"
            )
        if self.first_exponent == self.second_exponent == 0:
            raise SsgcamError("first_exponent and second_exponent are both 0; raise one of them")


@dataclass(frozen=True)
class TargetSettings:
    """What is differentiated, and its second order; see ``core.target`` and ``core.signals``.

    Attributes:
        name: Name of the target.
        second: ``"squared"``, the closed form of a piecewise-linear network (the Gauss-Newton part
            otherwise), or ``"hutchinson"``, an estimate of the true diagonal.
        sign: What becomes of a negative second derivative: ``"positive"`` drops it, ``"absolute"``
            takes its magnitude.
        top_classes: How many classes, the most probable, the softmax targets take into account.
        probes: Random probes of the Hutchinson estimate.
        seed: Of these probes.
    """

    name: TargetName = "exp"
    second: SecondOrder = "squared"
    sign: Sign = "positive"
    top_classes: int = 10
    probes: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value and the combinations that can't work."""
        check_choice("target", self.name, TargetName)
        check_choice("second", self.second, SecondOrder)
        check_choice("sign", self.sign, Sign)
        check_range("top_classes", self.top_classes, 2, 100000)
        check_range("probes", self.probes, 1, 100000)
        if self.name == "log_probability" and self.sign == "positive":
            raise SsgcamError(
                "the second derivative of log_probability is never positive; ask for its magnitude "
                "with sign='absolute' or choose target='exp'"
            )
