"""Which number has a class, in a data set and in a network?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ssgcam.data.sample import SampleSet
from ssgcam.errors import SsgcamError


def match_classes(
    samples: SampleSet,
    class_names: Sequence[str],
    outputs: int | None = None,
    network: str = "the network",
) -> dict[int, int]:
    """Map the classes of a data set to the outputs of a network.

    Classes are matched by name, whatever the case, if the network has each name exactly once.
    Otherwise they are matched by index, if the names in the data set are plain numbers, if the
    names of the network are unknown, or if both have the same number of classes. A set whose
    masks only tell objects from background (class ``object``) is never matched by index.

    Args:
        samples: The data set.
        class_names: Names of the outputs; empty if unknown.
        outputs: Number of outputs; None if unknown.
        network: Name of the network, for messages.

    Returns:
        Class index in the data set -> output index, for the classes that occur in the set.

    Raises:
        SsgcamError: If the classes don't match, or an index is not below `outputs`.
    """
    used = sorted({label for sample in samples for label in sample.labels})
    wanted = {label: samples.class_names[label].casefold() for label in used}
    names = [name.casefold() for name in class_names]
    if all(names.count(name) == 1 for name in wanted.values()):
        return {label: names.index(name) for label, name in wanted.items()}
    numbered = all(name.isdecimal() for name in wanted.values())
    same_number = not names or len(names) == len(samples.class_names)
    if samples.class_names == ("object",) or not (numbered or same_number):
        unmatched = next(label for label, name in wanted.items() if names.count(name) != 1)
        found = "twice a class" if wanted[unmatched] in names else "not a class"
        raise SsgcamError(
            f"the data set's class '{samples.class_names[unmatched]}' is {found} of '{network}'; "
            "say which class to explain with --class, or use a network trained on these classes"
        )
    if outputs is not None and used[-1] >= outputs:
        raise SsgcamError(
            f"the data set's class {used[-1]} ('{samples.class_names[used[-1]]}') is out of range: "
            f"'{network}' has {outputs} classes, 0 to {outputs - 1}"
        )
    return {label: label for label in used}


class LabelEncoder:
    """Turns the classes of a table into class indices.

    Whole numbers are indices (minus `first`); names are sorted, unless `names` gives their order.

    Args:
        labels: All classes of the table, numbers or names; None means no class.
        names: The names in the order of their indices, or None.
        first: The number that stands for the first class.
        source: The table, for messages.

    Attributes:
        names: The class names in the order of their indices.

    Raises:
        SsgcamError: If a class is neither a number nor among `names`.
    """

    def __init__(
        self, labels: Iterable[Any], names: Sequence[str] | None, first: int, source: Path
    ) -> None:
        texts = {str(label) for label in labels if label is not None}
        self._numeric = all(text.removeprefix("-").isdecimal() for text in texts)
        self._first = first
        if names is None and self._numeric:
            names = [str(number) for number in range(first, max(map(int, texts), default=-1) + 1)]
        self.names = tuple(sorted(texts) if names is None else names)
        unknown = sorted(texts - set(self.names))
        if unknown and not self._numeric:
            raise SsgcamError(
                f"'{source}' has the class '{unknown[0]}', which is not among class_names; add it"
            )

    def index(self, label: Any) -> int | None:
        """Return a class's index, or None for None."""
        if label is None:
            return None
        return int(label) - self._first if self._numeric else self.names.index(str(label))

    def indices(self, labels: Iterable[Any]) -> list[int]:
        """Return the indices of classes, without those of None."""
        return [index for label in labels if (index := self.index(label)) is not None]
