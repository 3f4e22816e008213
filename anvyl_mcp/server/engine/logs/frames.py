"""Parse lines from the engine's two log formats: multiplexed frames, or the raw bytes of a terminal."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_LINE_CHARACTERS = 4096
"""Characters shown of one line."""
MAX_LINE_BYTES = MAX_LINE_CHARACTERS * 4
"""Bytes buffered per line: a character has at most four."""
HEADER = 8
MAX_STAMP_BYTES = 40
PART_BYTES = 16 * 1024
"""Bytes after which Docker splits a line into parts, each with its own timestamp."""
PODMAN_STAMP = re.compile(rb"(?<!^)(?<![ \t=\"'\[(<:,;|/-])\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d) ")
"""Podman splits a terminal's lines anywhere: a timestamp glued to the text before it is not the container's."""
PART_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d) ")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line: the engine's timestamp, its text, and how many bytes at its end were dropped.

    `unsearched` is whether anything was dropped, also overwritten states of a progress bar.
    """

    stamp: str
    text: bytes
    dropped_bytes: int = 0
    unsearched: bool = False


class _LineBuffer:
    """Buffers the current line of one output stream; keeps at most `most` bytes of it."""

    def __init__(self, most: int, *, raw: bool) -> None:
        self._most, self._raw = most, raw
        self._kept = bytearray()
        self._dropped_bytes = 0
        self._unsearched = False

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
        self._unsearched = True
        # Of a progress bar that overwrites itself keep the latest state.
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
        done = LogLine(stamp[:MAX_STAMP_BYTES].decode("ascii", "replace"), line, self._dropped_bytes, self._unsearched)
        self._kept.clear()
        self._dropped_bytes, self._unsearched = 0, False
        return done


def _without_stamps(line: bytes) -> bytes:
    """Remove the timestamps that Docker put between the parts of a terminal's long line."""
    parts, at = [line[:PART_BYTES]], PART_BYTES
    while found := PART_STAMP.match(line, at):
        parts.append(line[found.end() : found.end() + PART_BYTES])
        at = found.end() + PART_BYTES
    return b"".join([*parts, line[at:]])


def parse_lines(chunks: Iterable[bytes], *, raw: bool, most: int = MAX_LINE_BYTES) -> Iterator[LogLine]:
    """Parse chunks into lines. `raw`: the container has a terminal, so there are no frames.

    Raises:
        struct.error: the data is not in frames.
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
    """Payloads of frames with their stream number, in pieces: a frame of any claimed length needs no buffer.

    The engine splits long lines into frames without a newline, each with a timestamp: all but the first are removed.
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
        raise struct.error("this is not a log frame")
    return stream, length
