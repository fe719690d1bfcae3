"""The settings that all evaluations share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssgcam.errors import SsgcamError


@dataclass(frozen=True)
class EvaluationSettings:
    """How an evaluation runs.

    Attributes:
        batch_size: Images whose maps are made in one pass of the network.
        pixels: Of the perturbed images of one pass: so many images fit as have no more pixels. None
            takes what suits the device, see :func:`ssgcam.metrics.images_at_once`.
        fast: Of the maps, as for :class:`ssgcam.CAM`. A perturbation's maps are exact, and this is for
            the predictions, see :class:`ssgcam.evaluation.answers.Answers`.
        device: Where the network is moved to; None leaves it where it is.
        workers: Threads that read images; one for each processor, at most 8, if None.
        seed: Of the bootstrap, of ties and of everything else that is random.
        resamples: Bootstrap resamples of each interval.
        bins: How many resampling units are kept apart. More groups (or images, where there are no
            groups) than that share units, so that memory doesn't grow with the data set.
        examples: Images in the panel of examples.
        progress: Show a progress bar where the standard error is a terminal.
        unfinished: The folder of the results, where the sums so far are kept until
            :func:`ssgcam.evaluation.write_evaluation` has written to it; None keeps none.
        resume: Go on from the sums of a killed run of the same network, images and settings.

    Raises:
        SsgcamError: If a number is out of range.
    """

    batch_size: int = 16
    pixels: int | None = None
    fast: bool = False
    device: str | None = None
    workers: int | None = None
    seed: int = 0
    resamples: int = 1000
    bins: int = 500
    examples: int = 4
    progress: bool = False
    unfinished: str | Path | None = None
    resume: bool = True

    def __post_init__(self) -> None:
        """Check every number."""
        for name in ("batch_size", "pixels", "workers", "resamples", "bins"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SsgcamError(f"{name} is {value}; give at least 1")
        if self.seed < 0 or self.examples < 0:
            raise SsgcamError("seed and examples can't be negative")
