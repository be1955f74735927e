"""Which version of a table a study is approved on, and trains on, in the record.

A version is a hash that only this site can make: the plain hash of a table would tell somebody who
knows all of its rows but one whether they guess that one right.
"""

import hashlib
import hmac

from cohortium.client.site import Site
from cohortium.common.audit.events import Actor
from cohortium.common.audit.noticing import Noticing
from cohortium.common.document import digest
from cohortium.common.study import Study

CONTEXT = b"cohortium-dataset-version-v1\n"


def record(site: Site, study: Study, actor: Actor) -> None:
    """Log the version of a study's table, unless it is the one that was logged last."""
    name = study.data.dataset
    dataset = site.directory.load_dataset(name)
    version = version_of(site, site.fingerprints.of_dataset(dataset))
    with site.database.transaction():
        if Noticing(site.database, site.log).is_new(f"dataset {name}", version):
            site.log.append(
                "dataset.snapshot",
                actor=actor,
                study=study.digest,
                detail={"dataset": name, "version": version, "schema": digest(dataset.data_model)},
            )


def version_of(site: Site, fingerprint: str) -> str:
    """HMAC-SHA-256, hex, of a table's fingerprint under a secret that follows from our key."""
    secret = site.key.sign(CONTEXT)  # Ed25519 gives the same each time, and to us alone
    return hmac.new(secret, fingerprint.encode(), hashlib.sha256).hexdigest()
