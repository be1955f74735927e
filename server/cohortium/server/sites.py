"""How a coordinator reaches sites: bytes out, bytes back as they arrive. Flower is one way."""

from collections.abc import Iterator, Mapping
from typing import Protocol


class Sites(Protocol):
    """Implemented by FlowerSites, and by tests in one process through the real codec."""

    def ask(self, requests: Mapping[str, bytes], deadline_s: float) -> Iterator[tuple[str, bytes]]:
        """Send each site its request; yield (site, reply) in the order of arrival.

        Ends when all have replied or failed, and silently at the deadline.

        Raises:
            UnreachableError: the transport itself is gone.
        """
