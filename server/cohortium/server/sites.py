"""How a coordinator reaches sites: bytes out, bytes back as they arrive. Flower is one way."""

from collections.abc import Iterator, Mapping
from typing import Protocol


class Sites(Protocol):
    """Implemented by FlowerSites, and by tests in one process through the real codec."""

    def ask(
        self, heads: Mapping[str, bytes], body: bytes, deadline_s: float
    ) -> Iterator[tuple[str, bytes]]:
        """Send each site its own head and the body; yield (site, reply) as they arrive.

        Ends when all have replied or failed, and silently at the deadline; sooner where a site
        failed, so that the caller may ask it again. Asking again with the same head and body goes
        on waiting where the first request is still on its way, and sends another where it is not.

        Args:
            heads: by site name; what precedes the body there.
            body: the same for all sites, so that it is held once however many they are.
            deadline_s: seconds from now.

        Raises:
            UnreachableError: the transport itself is gone.
        """
