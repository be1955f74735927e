"""The benchmark's long record is in proper form: its export can be verified."""

from pathlib import Path

from benchmarks import long_record

from cohortium.common.audit import verify
from cohortium.common.audit.export import Request, export
from cohortium.common.audit.party import open_party


def test_the_record_of_the_benchmark_is_exported_and_verified(tmp_path: Path) -> None:
    policy, out = tmp_path / "policy.txt", tmp_path / "e.zip"
    policy.write_text(long_record.make(tmp_path / "net", 300))
    party = open_party(tmp_path / "net")
    request = Request(out=out, audience="regulator", person="Dr. E. Haddad", wait_s=0.0)
    done = export(party, request, lambda _: None)
    party.database.close()
    assert 250 < done.size <= 301
    assert verify.main([str(out), "--policy", str(policy)]) == 0
