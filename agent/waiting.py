"""Wait for one of several futures without cancelling them.

A task that is cancelled while it awaits a future also cancels that future. So futures that several tasks wait for (the
end of a process, the request to stop) are waited for with `first_of`.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

T = TypeVar("T")


def new_future() -> asyncio.Future[Any]:
    """Return a future of the running loop."""
    return asyncio.get_running_loop().create_future()


def set_once(future: asyncio.Future[T], value: T) -> None:
    """Give a future its value. A later value is ignored, because the first one has been used."""
    if not future.done():
        future.set_result(value)


async def first_of(*futures: asyncio.Future[Any], timeout_s: float | None = None) -> bool:
    """Wait until one of the futures is done, at most `timeout_s`. Returns false when the time ran out first."""
    if not futures:
        await asyncio.sleep(timeout_s or 0.0)
        return False
    done, _ = await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)
