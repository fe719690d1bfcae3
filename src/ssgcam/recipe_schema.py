"""From untrusted JSON to frozen dataclasses: every key and every type is checked, no code is run.

The schema is the dataclass itself: its fields are the keys, their annotations the types. Understood
are ``int``, ``float`` (JSON's ``null`` where ``| None``), ``str``, ``bool``, ``Literal``,
``tuple[T, ...]``, ``tuple[T1, T2]``, ``dict[str, T]``, ``T | None`` and dataclasses of these.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ssgcam.errors import SsgcamError

T = TypeVar("T")
_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def decode(kind: type[T], value: Any, where: str) -> T:
    """Build a dataclass from what ``json.loads`` gave.

    Args:
        kind: A dataclass of the types above.
        value: The parsed JSON.
        where: What the messages call it, such as ``"recipe 'malaria.json'"``.

    Returns:
        The instance; its own checks have run.

    Raises:
        SsgcamError: For an unknown or missing key or a value of a wrong type, saying where.
    """
    result: T = _dataclass(kind, value, where, "")
    return result


def _dataclass(kind: Any, value: Any, where: str, path: str) -> Any:
    if not isinstance(value, dict):
        raise SsgcamError(f"{where}: '{path or 'the file'}' is {_kind(value)}, not an object {{}}")
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind) if field.init}
    unknown = [key for key in value if key not in known]
    if unknown:
        raise SsgcamError(
            f"{where} has an unknown key '{_join(path, unknown[0])}'; it may be written by a newer "
            "ssgcam or have a typing error"
        )
    for name, field in known.items():
        needed = field.default is MISSING and field.default_factory is MISSING
        if needed and name not in value:
            raise SsgcamError(f"{where} has no key '{_join(path, name)}'; save it again or add it")
    decoded = {
        name: _value(hints[name], item, where, _join(path, name)) for name, item in value.items()
    }
    try:
        return kind(**decoded)
    except SsgcamError as error:
        raise SsgcamError(f"{where}{f', {path}' if path else ''}: {error}") from error


def _value(kind: Any, value: Any, where: str, path: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        (inner,) = [part for part in parts if part is not NoneType]
        return _value(inner, value, where, path)
    if origin is Literal:
        if value not in parts or isinstance(value, bool):
            choices = ", ".join(str(part) for part in parts)
            raise SsgcamError(f"{where}: '{path}' is {value!r}; it must be one of {choices}")
        return value
    if origin is tuple:
        return _tuple(parts, value, where, path)
    if origin is dict:
        if not isinstance(value, dict):
            raise SsgcamError(f"{where}: '{path}' is {_kind(value)}, not an object {{}}")
        return {key: _value(parts[1], item, where, f"{path}.{key}") for key, item in value.items()}
    if is_dataclass(kind):
        return _dataclass(kind, value, where, path)
    return _scalar(kind, value, where, path)


def _tuple(parts: tuple[Any, ...], value: Any, where: str, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise SsgcamError(f"{where}: '{path}' is {_kind(value)}, not a list []")
    if len(parts) == 2 and parts[1] is ...:
        parts = (parts[0],) * len(value)
    if len(parts) != len(value):
        raise SsgcamError(f"{where}: '{path}' has {len(value)} values; it must have {len(parts)}")
    return tuple(
        _value(part, item, where, f"{path}[{index}]")
        for index, (part, item) in enumerate(zip(parts, value, strict=True))
    )


def _scalar(kind: Any, value: Any, where: str, path: str) -> Any:
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise SsgcamError(f"{where}: '{path}' is {_kind(value)}, not {_NAMES[kind]}")
    if kind is float and not math.isfinite(value):
        raise SsgcamError(f"{where}: '{path}' is {value}, not a finite number")
    return float(value) if kind is float else value


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", NoneType: "null"}
    return names.get(type(value)) or _NAMES.get(type(value)) or type(value).__name__
