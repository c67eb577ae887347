"""The way between workers and the driver: what people are to see, and that the run must stop."""


class Board:
    """What workers want people to see, and what the driver wants of workers; an actor of the driver's.

    It keeps pickles, so that its process starts without torch, which takes seconds of every CPU that a run has.
    """

    def __init__(self) -> None:
        self._items: list[bytes] = []
        self._stopping = False

    def put(self, item: bytes) -> None:
        """Add something to be shown."""
        self._items.append(item)

    def take(self) -> list[bytes]:
        """Return what was added since the last call."""
        items, self._items = self._items, []
        return items

    def stop(self) -> None:
        """Ask the workers to save and end."""
        self._stopping = True

    def stopping(self) -> bool:
        """Tell whether the workers are to save and end."""
        return self._stopping
