"""The pool for asyncio: the same core, whose waits go to the event loop. Importing `aio.waits` loads greenlet."""
