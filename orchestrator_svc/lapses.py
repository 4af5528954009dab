"""When the reaper may end sessions: many that fall silent at once are a cut network, not workers that died.

Pure; times in seconds of any one clock.
"""

from dataclasses import dataclass

# With fewer sessions than this a share says nothing.
_FEWEST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapses:
    """What is seen of the open sessions at one time."""

    open: int
    lapsed: int  # of those, whose lease has run out


class LapseGuard:
    """Stops the ending of sessions when more than `share` of at least five lapse at once.

    It lets go on when for a whole lease some were heard and no further one fell silent: whoever is silent
    then has died while the others are well.
    """

    def __init__(self, *, share: float, lease: float) -> None:
        self._share = share
        self._lease = lease
        self._since: float | None = None
        self._lapsed = 0

    @property
    def alarmed(self) -> bool:
        """Whether no session is ended for now."""
        return self._since is not None

    def may_end(self, seen: Lapses, now: float) -> bool:
        """Whether what has lapsed may be ended."""
        if self._since is None:
            begins = seen.open >= _FEWEST and seen.lapsed > self._share * seen.open
        else:
            begins = seen.lapsed > self._lapsed or seen.lapsed == seen.open
        if begins:
            self._since = now
        self._lapsed = seen.lapsed
        if self._since is not None and (not seen.lapsed or now - self._since >= self._lease):
            self._since = None
        return self._since is None
