"""Whether what has arrived of a request is all of it. Bytes in, an answer out; the parser of gunicorn stays the judge.

A thread is worth having only for a request that is there: clients that send slowly, or nothing, must not hold one.
"""

from __future__ import annotations

import re

HEAD_BYTES = 65536
"""A longer head is handed over as it is, for the parser to refuse."""
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*(?=\r\n)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)


class Gathered:
    """The beginning of one request."""

    def __init__(self, limit: int, begun: bytes = b"") -> None:
        self.data = bytearray(begun)
        self._limit = limit
        self._body = 0
        self._end: int | None = None
        self._chunk = 0
        self._continue = False

    def is_whole(self) -> bool:
        """Say whether there is a whole request, or enough to refuse it: a body over the limit need not be whole."""
        if not self._body and not self._read_head():
            return len(self.data) > HEAD_BYTES
        if len(self.data) - self._body > self._limit:
            return True
        if self._end is not None:
            return len(self.data) >= self._end or self._end - self._body > self._limit
        return self._has_last_chunk()

    def wants_continue(self) -> bool:
        """Say, once, whether the client waits for a word before it sends the body."""
        wanted, self._continue = self._continue, False
        return wanted

    def _read_head(self) -> bool:
        end = self.data.find(_HEAD_END, 0, HEAD_BYTES + len(_HEAD_END))
        if end < 0:
            return False
        head = bytes(self.data[: end + 2])
        self._body = self._chunk = end + len(_HEAD_END)
        self._continue = _EXPECT.search(head) is not None
        if _CHUNKED.search(head) is None:
            length = _LENGTH.search(head)
            self._end = self._body + (int(length[1]) if length else 0)
        return True

    def _has_last_chunk(self) -> bool:
        """Go from chunk to chunk; what was passed is not looked at again."""
        while True:
            line = self.data.find(b"\r\n", self._chunk)
            if line < 0:
                return len(self.data) - self._chunk > HEAD_BYTES
            try:
                size = int(bytes(self.data[self._chunk : line]).split(b";")[0], 16)
            except ValueError:
                return True
            if size <= 0:
                return self.data.find(_HEAD_END, line) >= 0 or len(self.data) - line > HEAD_BYTES
            following = line + 2 + size + 2
            if following > len(self.data):
                return False
            self._chunk = following
