"""One consortium for all tests that leave it as it was: sites a, b and c online, over TLS."""

from collections.abc import Iterator

import pytest
from tests.e2e.deployment import Deployment, deployment


@pytest.fixture(scope="session")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("consortium")) as made:
        made.start_coordinator()
        made.start_sites("a", "b", "c")
        yield made
