"""Lines out of the two forms in which the engine sends logs: multiplexed frames, or a terminal's plain bytes."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_LINE_CHARACTERS = 4096
"""Characters shown of one line."""
MAX_LINE_BYTES = MAX_LINE_CHARACTERS * 4
"""Bytes kept of one line while it is read: the widest characters have four."""
HEADER = 8
MAX_STAMP_BYTES = 40
PART_BYTES = 16 * 1024
"""Bytes of a line after which Docker begins a new part, with a stamp of its own."""
PODMAN_STAMP = re.compile(rb"(?<!^)(?<![ \t=\"'\[(<:,;|/-])\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d) ")
"""Podman's parts of a terminal's line are of any length: a stamp glued to what is before it is not the container's."""
PART_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d) ")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line: the time the engine gave it, its text, and how many bytes of it were not kept.

    `unsearched` is whether any were dropped, also states of a progress that later ones stand over.
    """

    stamp: str
    text: bytes
    dropped_bytes: int = 0
    unsearched: bool = False


class _LineBuffer:
    """The line that one of the container's streams is writing; at most `most` bytes of it are kept."""

    def __init__(self, most: int, *, raw: bool) -> None:
        self._most, self._raw = most, raw
        self._kept = bytearray()
        self._dropped_bytes = 0
        self._dropped = False

    def add(self, piece: bytes) -> Iterator[LogLine]:
        first, *rest = piece.split(b"\n")
        self._append(first)
        for following in rest:
            yield self._finish_line()
            self._append(following)

    def end(self) -> Iterator[LogLine]:
        if self._kept:
            yield self._finish_line()

    def _append(self, piece: bytes) -> None:
        self._kept += piece
        if len(self._kept) <= self._most:
            return
        self._dropped = True
        # Of a progress that is written over itself the latest state counts.
        stamp, written = self._kept.find(b" ") + 1, self._kept.rfind(b"\r", 0, len(self._kept) - 1) + 1
        if 0 < stamp < written:
            del self._kept[stamp:written]
            self._dropped_bytes = 0
        self._dropped_bytes += max(0, len(self._kept) - self._most)
        del self._kept[self._most :]

    def _finish_line(self) -> LogLine:
        stamp, _, line = bytes(self._kept).partition(b" ")
        if self._raw:
            line = _without_stamps(line) if b"." in stamp else PODMAN_STAMP.sub(b"", line)
        done = LogLine(stamp[:MAX_STAMP_BYTES].decode("ascii", "replace"), line, self._dropped_bytes, self._dropped)
        self._kept.clear()
        self._dropped_bytes, self._dropped = 0, False
        return done


def _without_stamps(line: bytes) -> bytes:
    """A terminal's long line without the stamps of its parts, which stand where one part ends and the next begins."""
    parts, at = [line[:PART_BYTES]], PART_BYTES
    while found := PART_STAMP.match(line, at):
        parts.append(line[found.end() : found.end() + PART_BYTES])
        at = found.end() + PART_BYTES
    return b"".join([*parts, line[at:]])


def parse_lines(chunks: Iterable[bytes], *, raw: bool, most: int = MAX_LINE_BYTES) -> Iterator[LogLine]:
    """Lines as they come. `raw`: the container has a terminal, so there are no frames.

    Raises:
        struct.error: the frames are none.
    """
    streams: dict[int, _LineBuffer] = {}
    for stream, piece in ((1, chunk) for chunk in chunks) if raw else _frame_payloads(chunks):
        if stream not in streams:
            streams[stream] = _LineBuffer(most, raw=raw)
        for line in streams[stream].add(piece):
            if line.stamp:
                yield line
    for buffer in streams.values():
        yield from buffer.end()


def _frame_payloads(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
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
                if space < 0 and len(piece) < min(left, MAX_STAMP_BYTES):
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
