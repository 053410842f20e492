"""Reads the bodies of hook requests: within a deadline, and together not more than there is memory for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import gevent
from werkzeug import exceptions

_LARGE_BYTES = 65536  # bodies of this size or more share the memory of two of the largest that are allowed


class Bodies:
    """What all connections read; ``largest`` is how many bytes a body may have."""

    def __init__(self, largest: int) -> None:
        self._largest, self._free = largest, 2 * largest
        self._freed = threading.Condition()

    @contextlib.contextmanager
    def read(self, environ: dict[str, Any], until: float) -> Iterator[bytes]:
        """Give the body of a WSGI request, whose memory counts as taken for the length of the with-block.

        ``until`` (monotonic seconds) is when a large one must be there. Raises RequestEntityTooLarge and BadRequest.
        """
        # straight from gunicorn, which has checked the length: werkzeug would put a stream of its own over it
        read, size = environ["wsgi.input"].read, int(environ.get("CONTENT_LENGTH") or 0)
        if size > self._largest:
            raise exceptions.RequestEntityTooLarge
        try:
            if size < _LARGE_BYTES:
                yield read(size)
                return
            with contextlib.ExitStack() as stack:
                with gevent.Timeout(max(0.0, until - time.monotonic()), TimeoutError):
                    stack.enter_context(self._taken(size))
                    data = read(size)
                yield data
        except TimeoutError as exc:
            why = "The body did not arrive in time, or others took the memory for it: send it again later."
            raise exceptions.BadRequest(why) from exc
        except OSError as exc:
            raise exceptions.BadRequest("The body could not be read.") from exc

    @contextlib.contextmanager
    def _taken(self, size: int) -> Iterator[None]:
        with self._freed:
            self._freed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._freed:
                self._free += size
                self._freed.notify_all()
