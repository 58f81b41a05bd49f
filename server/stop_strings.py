"""Stop strings, matched while text arrives in pieces.

Read the text character by character: the answer ends before the stop string that is complete first; of two that are
complete at the same character, before the longer one. That depends on the text alone, not on how it was cut into
pieces, so a streamed answer equals one that was not streamed. No character that may still become part of a stop
string is given out.
"""

from collections.abc import Sequence


class StopMatcher:
    """Passes text through until one of `stops` occurs.

    Args:
        stops: Stop strings; none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Take the next piece and return the text that is certain not to belong to a stop string.

        Sets `stopped` once a stop string is complete; nothing may be pushed after that.
        """
        text = self._held + piece
        ends = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            self._held = ""
            return text[: min(ends)[1]]
        keep = self._open_suffix(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The text still held back, for when the answer ended by itself."""
        held, self._held = self._held, ""
        return held

    def _open_suffix(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
