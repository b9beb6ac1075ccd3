"""The least of MATLAB's MAT-files of version 5 that lists of files need: a cell array of texts.

The format is described in MathWorks' "MAT-File Format": a header of 128 bytes, then elements, each a type, a size and
that many bytes.
"""

import zlib
from collections.abc import Iterator

INT8, UINT8, UINT16, MATRIX, COMPRESSED, UTF8, UTF16 = 1, 2, 4, 14, 15, 16, 17
ENCODINGS = {INT8: "latin1", UINT8: "latin1", UINT16: "utf-16-le", UTF8: "utf-8", UTF16: "utf-16-le"}
CELL, CHARACTERS = 1, 4
"""Classes of matrices."""
HEADER = 128
MAX_BYTES = 2**26
"""Of a decompressed variable."""


def read_texts(data: bytes, variable: str) -> list[str]:
    """The texts of a cell array in a MAT-file. Raises ValueError if there is no such thing in it."""
    if data[124:128] != b"\x00\x01IM":
        raise ValueError("it is not a little-endian MAT-file of version 5")
    for kind, content in _elements(data[HEADER:]):
        if kind == COMPRESSED:
            kind, content = next(_elements(_decompressed(content)), (kind, b""))
        if kind == MATRIX:
            matrix, name, cells = _matrix(content)
            if matrix == CELL and name == variable:
                return [_text(*cell) for cell in cells]
    raise ValueError(f"it holds no cell array {variable}")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each element."""
    at = 0
    while at < len(data):
        kind, size = (int.from_bytes(data[start : start + 4], "little") for start in (at, at + 4))
        start = at + 8
        if kind >> 16:  # of at most four bytes, packed beside its type and size
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        content = data[start : start + size]
        if len(content) < size:
            raise ValueError("it is cut short")
        yield kind, content
        at = start + size if kind == COMPRESSED else start + size + -(start + size - at) % 8


def _decompressed(content: bytes) -> bytes:
    inflate = zlib.decompressobj()
    data = inflate.decompress(content, MAX_BYTES)
    if not inflate.eof:
        raise ValueError("a variable is cut short or too large")
    return data


def _matrix(content: bytes) -> tuple[int, str, list[tuple[int, bytes]]]:
    """Class, name and the other elements of a matrix."""
    elements = list(_elements(content))
    if len(elements) < 3:
        raise ValueError("a matrix lacks its class, size or name")
    (_, flags), _, (_, name), *rest = elements
    return int.from_bytes(flags[:1], "little"), name.decode("latin1"), rest


def _text(kind: int, content: bytes) -> str:
    """The text of a cell."""
    if kind == MATRIX:
        matrix, _, elements = _matrix(content)
        if matrix == CHARACTERS and len(elements) == 1 and elements[0][0] in ENCODINGS:
            return elements[0][1].decode(ENCODINGS[elements[0][0]])
    raise ValueError("a cell is not a text")
