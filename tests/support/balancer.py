"""One address in front of several servers, as a Service is: TCP, round robin, around those that refuse."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field


@dataclass
class Balancer:
    """Passes connections on to `backends` (ports on the loopback), which may change at any time."""

    backends: list[int]
    port: int = 0
    _next: int = 0
    _loop: asyncio.AbstractEventLoop = field(init=False)
    _done: asyncio.Event = field(init=False)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen on `port` (a free one when 0) and serve in a thread of its own."""
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(ready)), name="balancer", daemon=True)
        self._thread.start()
        if not ready.wait(60):
            raise TimeoutError("the balancer does not listen")

    def stop(self) -> None:
        """Close every connection and stop listening."""
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(60)

    async def _run(self, ready: threading.Event) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._done.wait()
        server.close()  # asyncio.run() cancels the connections that are left

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            backend = await self._connect()
            if backend is None:
                return
            behind_reader, behind_writer = backend
            with contextlib.closing(behind_writer):
                ways = {
                    asyncio.ensure_future(_pipe(reader, behind_writer)),
                    asyncio.ensure_future(_pipe(behind_reader, writer)),
                }
                # Either side's end ends both: a caller that hangs up is seen to have hung up.
                _, left = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in left:
                    way.cancel()
                await asyncio.gather(*left, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in range(len(self.backends)):
            self._next += 1
            port = self.backends[self._next % len(self.backends)]
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return None


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
