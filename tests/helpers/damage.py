"""Damaged files, made from good ones by a seeded generator."""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

#: Format of Pillow -> suffix, and the modes in which a good file is made.
FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "AVIF": (".avif", ("RGB", "RGBA")),
    "BMP": (".bmp", ("1", "L", "P", "RGB")),
    "GIF": (".gif", ("L", "P", "animated")),
    "JPEG": (".jpg", ("CMYK", "L", "RGB", "exif")),
    "JPEG2000": (".jp2", ("L", "LA", "RGB", "RGBA")),
    "PNG": (".png", ("1", "I;16", "L", "LA", "P", "RGB", "RGBA", "animated", "exif")),
    "PPM": (".ppm", ("1", "L", "RGB")),
    "TIFF": (".tiff", ("1", "CMYK", "F", "I;16", "L", "LAB", "P", "RGB", "RGBA", "animated", "exif")),
    "WEBP": (".webp", ("RGB", "RGBA", "animated", "exif")),
}  # fmt: skip


def good_image(kind: str, mode: str, size: tuple[int, int] = (19, 13)) -> bytes:
    """A picture of noise in one format and mode."""
    noise = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), np.uint8)
    picture, options = Image.fromarray(noise), {}
    if mode == "animated":
        options = {"save_all": True, "append_images": [picture.rotate(90), picture.rotate(180)]}
    elif mode == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6
        exif[0x010E] = "a" * 200
        options = {"exif": exif.tobytes()}
    elif mode == "I;16":
        picture = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    elif mode == "LAB":
        picture = Image.frombytes("LAB", size, noise.tobytes())
    else:
        picture = picture.convert(mode)
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut, flipped, overwritten, doubled or given another header."""
    data = bytearray(content)
    way = rng.randrange(8)
    if way == 0:
        return bytes(data[: rng.randrange(len(data))])
    if way == 1:
        for _ in range(rng.choice((1, 3, 30))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == 2:  # the header, where sizes and offsets are
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(min(64, len(data)))] = rng.choice((0, 1, 127, 128, 255))
    elif way == 3:
        start = rng.randrange(len(data))
        data[start : start + rng.randrange(1, 40)] = rng.randbytes(rng.randrange(40))
    elif way == 4:
        kind = rng.choice(sorted(FORMATS))
        other = good_image(kind, FORMATS[kind][1][0])
        data[: rng.randrange(1, 32)] = other[: rng.randrange(1, 32)]
    elif way == 5:
        start = rng.randrange(len(data))
        data[start:start] = data[rng.randrange(len(data)) :]
    elif way == 6:
        start = rng.randrange(max(1, len(data) - 4))
        data[start : start + 4] = rng.choice(
            (b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\xff\xff", b"\xff\xff\0\0")
        )
    else:
        return rng.randbytes(rng.randrange(200))
    return bytes(data)


def damaged_images(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of damaged pictures of every format and mode."""
    rng = random.Random(seed)
    kinds = [(kind, mode) for kind in sorted(FORMATS) for mode in FORMATS[kind][1]]
    for number, (name, content) in enumerate(crafted_images()):
        if number < count // 4:
            yield f"crafted{number:02}_{name}", content
    for number in range(count - min(count // 4, len(dict(crafted_images())))):
        kind, mode = kinds[number % len(kinds)]
        content = damaged(good_image(kind, mode), rng)
        yield f"{number:05}_{mode.replace(';', '')}{FORMATS[kind][0]}", content


def crafted_images() -> Iterator[tuple[str, bytes]]:
    """Files that are made to do harm: huge sizes, loops, bombs."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    def png(width: int, height: int, depth: int, color: int, *chunks: bytes) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks)

    end, zeros = chunk(b"IEND", b""), chunk(b"IDAT", zlib.compress(bytes(10**6)))
    yield "huge.png", png(2**31 - 1, 2**31 - 1, 8, 2, zeros, end)
    yield "large.png", png(30000, 30000, 8, 2, zeros, end)
    yield "cut_large.png", png(5000, 5000, 8, 2, zeros, end)
    yield "no_pixels.png", png(0, 0, 8, 2, zeros, end)
    yield "odd_depth.png", png(4, 4, 3, 2, zeros, end)
    yield (
        "text_bomb.png",
        png(4, 4, 8, 2, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 * 10**6))), zeros, end),
    )
    yield (
        "profile_bomb.png",
        png(4, 4, 8, 2, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(80 * 10**6))), zeros, end),
    )
    yield "huge.bmp", b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, 2**31 - 1, 9, 1, 24)
    yield "negative.bmp", b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, -9, -9, 1, 24)
    yield (
        "huge.gif",
        b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x08",
    )
    yield "huge.ppm", b"P6 999999999 999999999 255 "
    yield "long_number.ppm", b"P6 " + b"9" * 10**5
    # TIFF: offset, entry count, then (tag, type, count, value) and the next directory
    entry = struct.Struct("<HHII").pack
    loop = b"II*\0" + struct.pack("<IH", 8, 1) + entry(256, 4, 1, 9) + struct.pack("<I", 8)
    yield "loop.tiff", loop
    yield "many_entries.tiff", b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(200)
    large = [(256, 2**31 - 1), (257, 2**31 - 1), (258, 8), (259, 1), (262, 1), (273, 8), (279, 9)]
    fields = b"".join(entry(tag, 4, 1, value) for tag, value in large)
    yield "huge.tiff", b"II*\0" + struct.pack("<IH", 8, len(large)) + fields + bytes(4)
    exif = b"Exif\0\0" + loop
    jpeg = good_image("JPEG", "RGB")
    yield (
        "exif_loop.jpg",
        jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:],
    )
    count = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry(0x112, 5, 2**31 - 1, 0) + bytes(4)
    yield (
        "exif_count.jpg",
        jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(count) + 2) + count + jpeg[2:],
    )
    yield "many_segments.jpg", jpeg[:2] + (b"\xff\xe1\0\x08Exif\0\0") * 5000 + jpeg[2:]
    yield "postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) print quit\n"
    yield "vector.png", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    yield "empty.jpg", b""
    yield "list.png", b"\x89PNG\r\n\x1a\n" * 1000


def damaged_text(text: str, rng: random.Random) -> bytes:
    """Text, JSON, CSV or XML that is cut, misspelled, of wrong types or nested too deep."""
    way = rng.randrange(7)
    if way <= 1:
        return damaged(text.encode(), rng)
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if way <= 5 and value is not None:
        return json.dumps(_changed(value, rng)).encode()
    if way == 2:
        lines = text.splitlines()
        rng.shuffle(lines)
        return "\n".join(lines[: rng.randrange(len(lines) + 1)]).encode()
    if way <= 4:
        words = text.split(rng.choice((" ", ",", "\n", '"', "<")))
        words[rng.randrange(len(words))] = str(rng.choice(_VALUES))
        return " ".join(words).encode("utf-8", "replace")
    return rng.choice(
        (b"[" * 5000, b'{"a":' * 5000, b"\xff\xfe" + text.encode("utf-16-le"), b"\0" * 99,
         text.encode() + b"\xe9", b"null", b"[]", b"{}", b"1e999", b"9" * 5000, text.encode() * 2)
    )  # fmt: skip


_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 1e308, float("nan"), float("-inf"), "", "a", "\0", "../../x",
    "é" * 300, [], [[]], {}, [1], {"a": 1}, 0.5, "9" * 5000, [None] * 4, "nan", -1e9,
)  # fmt: skip


def _changed(value: Any, rng: random.Random) -> Any:
    """One entry, at any depth, is dropped, added or replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        changed = dict(value)
        if rng.random() < 0.15:
            del changed[key]
        else:
            changed[key] = _changed(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.9:
        index = rng.randrange(len(value))
        return [*value[:index], _changed(value[index], rng), *value[index + 1 :]]
    return rng.choice(_VALUES)
