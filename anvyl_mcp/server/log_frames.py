"""Lines out of the two forms in which the engine sends logs: multiplexed frames, or a terminal's plain bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LONGEST_LINE = 4096
"""Characters shown of one line."""
KEPT = LONGEST_LINE * 4
"""Bytes kept of one line while it is read: the widest characters have four."""
HEADER = 8
LONGEST_STAMP = 40


@dataclass(frozen=True, slots=True)
class Line:
    """One line: the time the engine gave it, its text, and how many bytes of it were not kept."""

    stamp: str
    text: bytes
    beyond: int = 0


class _Growing:
    """The line that one of the container's streams is writing."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._beyond = 0

    def add(self, piece: bytes) -> Iterator[Line]:
        first, *rest = piece.split(b"\n")
        self._grow(first)
        for following in rest:
            yield self._done()
            self._grow(following)

    def end(self) -> Iterator[Line]:
        if self._kept:
            yield self._done()

    def _grow(self, piece: bytes) -> None:
        room = max(0, KEPT - len(self._kept))
        self._kept += piece[:room]
        self._beyond += max(0, len(piece) - room)

    def _done(self) -> Line:
        stamp, _, line = bytes(self._kept).partition(b" ")
        done = Line(stamp[:LONGEST_STAMP].decode("ascii", "replace"), line, self._beyond)
        self._kept.clear()
        self._beyond = 0
        return done


def lines_of(chunks: Iterable[bytes], *, raw: bool) -> Iterator[Line]:
    """Lines as they come. `raw`: the container has a terminal, so there are no frames.

    Raises:
        struct.error: the frames are none.
    """
    streams: dict[int, _Growing] = {}
    for stream, piece in ((1, chunk) for chunk in chunks) if raw else _pieces(chunks):
        for line in streams.setdefault(stream, _Growing()).add(piece):
            if line.stamp:
                yield line
    for growing in streams.values():
        yield from growing.end()


def _pieces(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Parts of frames with their stream's number; a frame is never held whole, however long it says it is.

    The engine cuts long lines into frames without a newline and stamps each of them: those stamps inside are removed.
    """
    pending, left, stream = b"", 0, 1
    open_lines: set[int] = set()
    stamped = False
    for chunk in chunks:
        buffer, at = pending + chunk, 0
        while at < len(buffer):
            if not left:
                if len(buffer) - at < HEADER:
                    break
                stream, left = _header(buffer, at)
                at, stamped = at + HEADER, stream in open_lines
                continue
            piece = buffer[at : at + left]
            if stamped:
                space = piece.find(b" ")
                if space < 0 and len(piece) < min(left, LONGEST_STAMP):
                    break
                at, left, stamped = at + space + 1, left - space - 1, False
                continue
            at, left = at + len(piece), left - len(piece)
            if not left:
                (open_lines.discard if piece.endswith(b"\n") else open_lines.add)(stream)
            yield stream, piece
        pending = buffer[at:]


def _header(buffer: bytes, at: int) -> tuple[int, int]:
    stream, length = struct.unpack_from(">BxxxL", buffer, at)
    if stream > 3:
        raise struct.error("this is no frame of a log")
    return stream, length
