"""Numbers the classes of a table, and maps the classes of a data set to a network's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ssgcam.data.sample import SampleSet
from ssgcam.errors import SsgcamError

#: The most classes of a set that numbers them: every number up to the last one is a class.
MOST_NUMBERED = 1_000_000


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


def numbered(labels: Iterable[int], source: Path, first: int = 0) -> list[str]:
    """Name classes by their numbers, from the first one to the last one that is used.

    Args:
        labels: Class indices.
        source: The file or folder that they are from, for messages.
        first: The number of class 0.

    Raises:
        SsgcamError: If a number is too large for a class.
    """
    count = max(labels, default=-1) + 1
    if count > MOST_NUMBERED:
        raise SsgcamError(
            f"'{source}' has the class number {count - 1 + first}, and numbers of classes end at "
            f"{MOST_NUMBERED:,}; give class names instead of such numbers"
        )
    return [str(first + number) for number in range(count)]


def number_classes(
    labels: Iterable[str | None], first: int, source: Path
) -> tuple[tuple[str, ...], dict[str | None, int]]:
    """Number the classes of a table.

    Whole numbers are indices (minus `first`); names are sorted.

    Args:
        labels: All classes of the table, numbers or names; None means no class.
        first: The number that stands for the first class.
        source: The table, for messages.

    Returns:
        The class names in the order of their indices, and the index of each class of the table.

    Raises:
        SsgcamError: If a number is too large for a class.
    """
    found = sorted({label for label in labels if label is not None})
    if all(label.removeprefix("-").isdecimal() for label in found):
        index: dict[str | None, int] = {label: int(label) - first for label in found}
        return tuple(numbered(index.values(), source, first)), index
    return tuple(found), {label: number for number, label in enumerate(found)}
