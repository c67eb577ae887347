"""The way from workers back to the driver's console."""


class Board:
    """What workers want people to see; an actor that the driver reads.

    It keeps pickles, so that its process starts without torch, which takes seconds of every CPU that a run has.
    """

    def __init__(self) -> None:
        self._items: list[bytes] = []

    def put(self, item: bytes) -> None:
        """Add something to be shown."""
        self._items.append(item)

    def take(self) -> list[bytes]:
        """Return what was added since the last call."""
        items, self._items = self._items, []
        return items
