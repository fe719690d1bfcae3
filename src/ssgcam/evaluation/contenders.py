"""Which maps compete: every method on every layer and on all layers fused, and a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ssgcam.cam import Layers
from ssgcam.core.methods import METHODS, ssg_cam
from ssgcam.core.settings import SSGSettings, TargetSettings
from ssgcam.core.signals import Signal
from ssgcam.errors import SsgcamError
from ssgcam.recipe import Recipe


@dataclass(frozen=True)
class Contender:
    """A method with its settings.

    Attributes:
        method: A key of ``core.methods.METHODS``.
        ssg: Settings of the method ``"ssg_cam"``.
        gamma: Power of each layer's scaled map; None is the method's own.
        name: How tables call it; None is the method's title, with the form where it isn't the
            default one.

    Raises:
        SsgcamError: If there is no such method.
    """

    method: str = "ssg_cam"
    ssg: SSGSettings = field(default_factory=SSGSettings)
    gamma: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        """Check the method's name."""
        if self.method not in METHODS:
            raise SsgcamError(
                f"no method named '{self.method}'; choose one of {', '.join(METHODS)}"
            )

    @classmethod
    def parse(cls, text: str) -> Contender:
        """A contender from ``METHOD`` or ``ssg_cam:FORM``, such as ``ssg_cam:gradient``."""
        method, _, form = text.strip().partition(":")
        if not form:
            return cls(method)
        if method != "ssg_cam":
            raise SsgcamError(f"'{text}' has a form, which only ssg_cam has; leave ':{form}' out")
        return cls(method, SSGSettings(form=form))  # type: ignore[arg-type]

    @property
    def title(self) -> str:
        """How tables call it."""
        if self.name is not None:
            return self.name
        title = METHODS[self.method].title
        special = self.method == "ssg_cam" and self.ssg.form != SSGSettings().form
        return f"{title} ({self.ssg.form} form)" if special else title

    @property
    def power(self) -> float:
        """Gamma: its own, or the method's."""
        return METHODS[self.method].gamma if self.gamma is None else self.gamma

    def layer_map(self, signal: Signal) -> Tensor:
        """The raw map ``[N, h, w]`` of one layer."""
        if self.method == "ssg_cam":
            return ssg_cam(signal, self.ssg)
        function = METHODS[self.method].function
        assert function is not None  # Score-CAM takes another way
        return function(signal)


DEFAULT_CONTENDERS = tuple(
    Contender(name)
    for name in (
        "ssg_cam", "grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam",
        "grad_cam_elementwise",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Entrants:
    """Which maps are compared.

    Attributes:
        contenders: The methods; their titles must differ.
        layers: Names or modules, as for :class:`ssgcam.CAM`, or ``"auto"``: the last of each
            resolution.
        each: Whether each layer is scored on its own.
        fused: Whether all layers fused are scored (where there are several).
        score: What is differentiated, the same for all; None takes each method's own, as
            :class:`ssgcam.CAM` does.
        recipe: Takes part as one more method.

    Raises:
        SsgcamError: If a method is named twice or there is none at all.
    """

    contenders: tuple[Contender, ...] = DEFAULT_CONTENDERS
    layers: Layers = "auto"
    each: bool = True
    fused: bool = True
    score: TargetSettings | None = None
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        """Check that there is something to compare."""
        titles = [contender.title for contender in self.contenders]
        if len(set(titles)) < len(titles):
            raise SsgcamError("a method is named twice; name each once")
        if not titles and self.recipe is None:
            raise SsgcamError("no method was given; name at least one, or a recipe")
