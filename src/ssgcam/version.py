"""The version of the package and of the software that it computes with."""

import platform

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Versions of the software that makes the outputs."""
    import torch  # here, as this module also serves what must start fast
    import torchvision

    return {
        "ssgcam": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
    }
