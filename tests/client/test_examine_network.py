"""Each way in which a site may not reach its coordinator is told from the others."""

import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from cohortium.client.examine_network import examine_network
from cohortium.client.finding import Finding
from cohortium.common import identity
from cohortium.common.identity import CertifiedKey

NO_PROXY: Mapping[str, str] = {}


@pytest.fixture
def ca() -> CertifiedKey:
    return identity.make_ca("Test CA", datetime.now(UTC) - timedelta(days=100))


@contextmanager
def serving(certified: CertifiedKey) -> Iterator[str]:
    """Somebody who answers over TLS with this certificate, and knows no method."""
    server = grpc.server(ThreadPoolExecutor(1), options=(("grpc.so_reuseport", 0),))
    pair = (certified.key_pem, certified.certificate_pem)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(grace=None).wait()


def sound(finding: Finding) -> Finding:
    """Every finding is one line, and says what to do unless all is well."""
    assert (finding.verdict == "ok") == (finding.advice == "")
    assert "\n" not in finding.said + finding.advice
    return finding


def at_network(
    ca: CertifiedKey, address: str, environ: Mapping[str, str] = NO_PROXY
) -> dict[str, Finding]:
    """What is found on the way to an address by a site that trusts `ca`; its clock untold."""
    pem = ca.certificate_pem
    findings = examine_network(address, "", pem, lambda: datetime.now(UTC), environ)
    return {finding.check: sound(finding) for finding in findings}


def test_a_coordinator_with_its_own_certificate_is_well(ca: CertifiedKey) -> None:
    server = identity.issue_server_certificate(ca, ["localhost"], datetime.now(UTC), 90)
    with serving(server) as address:
        findings = at_network(ca, address)
    assert [findings[check].verdict for check in ("DNS", "TCP", "TLS")] == ["ok"] * 3
    assert "valid for 89 days" in findings["TLS"].said
    assert findings["clock"].said == "not measured: no enrolment_address is known"


def test_a_certificate_that_ends_soon_is_a_warning(ca: CertifiedKey) -> None:
    server = identity.issue_server_certificate(ca, ["localhost"], datetime.now(UTC), 29)
    with serving(server) as address:
        assert at_network(ca, address)["TLS"].verdict == "warning"


@pytest.mark.parametrize(
    ("issued_days_ago", "said"), [(31, "has expired"), (-2, "is not valid yet")]
)
def test_a_server_certificate_of_another_time_is_found(
    ca: CertifiedKey, issued_days_ago: int, said: str
) -> None:
    issued = datetime.now(UTC) - timedelta(days=issued_days_ago)
    server = identity.issue_server_certificate(ca, ["localhost"], issued, 30)
    with serving(server) as address:
        finding = at_network(ca, address)["TLS"]
    assert (finding.verdict, finding.said) == ("fail", f"the server's certificate {said}")


def test_somebody_else_in_the_coordinators_place_is_found(ca: CertifiedKey) -> None:
    other = identity.make_ca("Test CA", datetime.now(UTC))
    server = identity.issue_server_certificate(other, ["localhost"], datetime.now(UTC), 90)
    with serving(server) as address:
        findings = at_network(ca, address)
    assert findings["TLS"].verdict == "fail"
    assert "not from the CA that this site joined" in findings["TLS"].said
    assert "clock" not in findings


def test_a_server_certificate_for_another_name_is_found(ca: CertifiedKey) -> None:
    server = identity.issue_server_certificate(ca, ["localhost"], datetime.now(UTC), 90)
    with serving(server) as address:
        finding = at_network(ca, address.replace("127.0.0.1", "127.1"))["TLS"]
    assert finding.said == "the server's certificate is for another host name"


def test_a_port_that_speaks_no_tls_is_found(ca: CertifiedKey) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    finding = at_network(ca, f"127.0.0.1:{port}")["TLS"]
    server.stop(grace=None).wait()
    assert finding.said.startswith(f"no TLS on port {port}")


def test_a_closed_port_and_a_name_without_address_are_found(ca: CertifiedKey) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        findings = at_network(ca, f"127.0.0.1:{closed.getsockname()[1]}")
    assert "does not answer" in findings["TCP"].said
    assert "TLS" not in findings
    findings = at_network(ca, "nobody.invalid:9092")
    assert findings["DNS"].said == '"nobody.invalid" has no address'
    assert set(findings) == {"proxy", "DNS"}


@pytest.mark.parametrize(
    "address", ["example.org", "127.0.0.1", "", ":", ":9092", "127.0.0.1:", "127.0.0.1:x",
                "127.0.0.1:99999", "127.0.0.1:-1", "x" * 70 + ".org:1", "..:1"]
)  # fmt: skip
def test_an_address_that_is_none_is_a_finding_and_no_crash(ca: CertifiedKey, address: str) -> None:
    assert at_network(ca, address)["DNS"].verdict == "fail"


@pytest.mark.parametrize(
    ("environ", "verdict"),
    [
        ({"https_proxy": "http://user:secret@proxy:3128"}, "warning"),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "example.org, .0.0.1"}, "ok"),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "127.0.0.0/8"}, "ok"),
        ({"grpc_proxy": "http://proxy:3128", "no_proxy": "10.0.0.0/8,*"}, "warning"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "ok"),  # gRPC reads the small ones only
        ({"https_proxy": ""}, "ok"),
        ({"grpc_proxy": "", "https_proxy": "http://proxy:3128"}, "ok"),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "7.0.0.1"}, "warning"),
        ({"https_proxy": "http://proxy:3128", "no_grpc_proxy": "", "no_proxy": "1"}, "warning"),
    ],
)
def test_a_proxy_that_would_catch_the_connection_is_found_without_its_password(
    ca: CertifiedKey, environ: dict[str, str], verdict: str
) -> None:
    finding = at_network(ca, "127.0.0.1:1", environ)["proxy"]
    assert finding.verdict == verdict
    assert "secret" not in finding.said + finding.advice
