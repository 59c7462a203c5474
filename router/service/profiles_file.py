"""The file of profiles beside an artifact: read at the start, and again whenever it changes."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from router.errors import ConfigError
from router.profiles import read_profiles
from router.types import ModelProfile

logger = logging.getLogger(__name__)

WATCH_PERIOD_S = 1.0

Stamp = tuple[int, int, int] | None
"""When the file was written (ns), its size in bytes and its inode; None where it cannot be found."""


class ProfilesFile:
    """Gives out the profiles of a file, all of them or, if anything in it is wrong, none: then the old ones stay.

    path: None where there is none, and nothing to do. use: takes profiles over; called in another thread but for the
    first time. told: gets True when a change was taken over, and False when it was not.
    """

    def __init__(
        self, path: Path | None, use: Callable[[Mapping[str, ModelProfile]], object], told: Callable[[bool], object]
    ) -> None:
        self._path = path
        self._use = use
        self._told = told
        self._stamp: Stamp = None
        self.latest: Mapping[str, ModelProfile] | None = None
        """Those in force, None before any were."""

    def load(self) -> None:
        """Take over what the file says now.

        Raises:
            ConfigError: it cannot be read, or something in it is wrong.
        """
        if self._path is not None:
            self._stamp = _stamp(self._path)  # before: what changes while it is read is read again
            self.latest = read_profiles(self._path)
            self.lay_over()

    def lay_over(self) -> None:
        """Give out those in force once more."""
        if self.latest is not None:
            self._use(self.latest)

    async def watch(self) -> None:
        """Look for changes until cancelled; what is wrong with one is logged once."""
        while self._path is not None:
            await asyncio.sleep(WATCH_PERIOD_S)
            await self.look()

    async def look(self) -> None:
        """Take over what the file says, if it has changed since the last look; off the event loop."""
        if self._path is None or await asyncio.to_thread(_stamp, self._path) == self._stamp:
            return
        try:
            await asyncio.to_thread(self.load)
        except ConfigError as exc:
            logger.error("the profiles stay as they are: %s", str(exc))
            self._told(False)
        else:
            logger.info("other profiles are in force, from %s", self._path)
            self._told(True)


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
