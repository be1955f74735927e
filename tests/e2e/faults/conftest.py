"""One consortium for each file of faults: what a file breaks, it mends."""

from collections.abc import Iterator

import pytest
from tests.e2e.deployment import Deployment, deployment
from tests.e2e.faults.trouble import SITES, let_in


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("hospitals")) as made:
        made.start_coordinator()
        made.start_sites(*SITES)
        for name in SITES:
            let_in(made, name)
        yield made
