"""Whether the coordinator can be reached: proxy, DNS, TCP, TLS, and how far the clocks differ."""

import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from cohortium.client.finding import Finding
from cohortium.common.identity import certificate_expiry

CONNECT_S = 5.0
LAST_PORT = 65_535
EXPIRES_SOON_DAYS = 30
SKEW_WARNING = timedelta(minutes=1)
SKEW_FAIL = timedelta(hours=1)
TIME_METHOD = "/cohortium.Enrolment/Time"
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # in gRPC's order
EXCEPTIONS = ("no_grpc_proxy", "no_proxy")

# OpenSSL's X509_V_ERR_*, see openssl-verification-options(1).
NOT_YET_VALID, EXPIRED, OTHER_HOST, OTHER_IP = 9, 10, 62, 64


def examine_network(
    fleet_address: str,
    enrolment_address: str,
    ca: bytes,
    now: Callable[[], datetime],
    environ: Mapping[str, str],
) -> Iterator[Finding]:
    """Every step on the way to the coordinator, up to the first that fails.

    Args:
        enrolment_address: who tells the time; empty where nobody does.
        ca: PEM of the one certificate authority that is trusted.
        now: the site's clock, in UTC.
        environ: where gRPC looks for proxies.
    """
    place = split_address(fleet_address)
    if place is None:
        yield no_address(fleet_address)
        return
    yield _proxy(place[0], environ)
    for finding in examine_path(fleet_address):
        yield finding
        if finding.verdict == "fail":
            return
    tls = _tls(place, ca, now())
    yield tls
    if tls.verdict != "fail":
        yield _clock(enrolment_address, ca, now)


def examine_path(address: str) -> Iterator[Finding]:
    """DNS, then TCP, to `host:port`; nothing is sent."""
    place = split_address(address)
    if place is None:
        yield no_address(address)
        return
    try:
        found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        said = f'"{place[0]}" has no address'
        yield Finding("DNS", "fail", said, "check the name and this machine's name server")
        return
    yield Finding("DNS", "ok", f"{place[0]} is {found[0][4][0]}")
    try:
        socket.create_connection(place, timeout=CONNECT_S).close()
    except OSError as error:
        said = f"{address} does not answer ({error.strerror or 'timeout'})"
        advice = "let the firewall pass outgoing TCP there, or ask the coordinator whether it is up"
        yield Finding("TCP", "fail", said, advice)
        return
    yield Finding("TCP", "ok", f"{address} answers")


def split_address(address: str) -> tuple[str, int] | None:
    """Host and port of `host:port`, or None where it is no such thing."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > LAST_PORT:
        return None
    return host.strip("[]"), int(port)


def no_address(address: str) -> Finding:
    return Finding(
        "DNS",
        "fail",
        f'"{address}" is no address such as fl.example.org:9092',
        "correct [coordinator] in site.toml",
    )


def _proxy(host: str, environ: Mapping[str, str]) -> Finding:
    """Whether gRPC would go through a proxy; its address is not said, it may hold a password.

    As gRPC 1.85 was seen to do it: the first variable that is set decides, even an empty one.
    """
    variable = next((name for name in PROXIES if name in environ), "")
    excepted = next((environ[name] for name in EXCEPTIONS if name in environ), "")
    if not environ.get(variable):
        return Finding("proxy", "ok", "none is set")
    if any(_covers(entry.strip(), host) for entry in excepted.split(",") if entry.strip()):
        return Finding("proxy", "ok", f"{variable} is set, with an exception for {host}")
    return Finding(
        "proxy",
        "warning",
        f"{variable} sends the daemon's connection through a proxy; the checks below go direct",
        f"set no_proxy={host} for the daemon unless the proxy passes CONNECT to this port",
    )


def _covers(entry: str, host: str) -> bool:
    """Whether an entry of no_proxy covers a host: a network, a domain or the name itself."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return f".{host}".lower().endswith(f".{entry.removeprefix('.')}".lower())


def _tls(place: tuple[str, int], ca: bytes, now: datetime) -> Finding:
    """A whole handshake that trusts our CA alone, as gRPC makes it."""
    host, port = place
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=ca.decode("ascii"))
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(place, timeout=CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            certificate = secured.getpeercert(binary_form=True) or b""
    except ssl.SSLCertVerificationError as error:
        return _distrusted(error.verify_code)
    except (OSError, ValueError) as error:
        said = f"no TLS on port {port} ({type(error).__name__})"
        advice = "check the port, and that no firewall or proxy breaks TLS open on the way"
        return Finding("TLS", "fail", said, advice)
    days = (certificate_expiry(ssl.DER_cert_to_PEM_cert(certificate).encode()) - now).days
    said = f"the coordinator's certificate is from its CA and valid for {days} days"
    if days < EXPIRES_SOON_DAYS:
        return Finding("TLS", "warning", said, "ask the coordinator to renew its certificate")
    return Finding("TLS", "ok", said)


def _distrusted(verify_code: int) -> Finding:
    if verify_code == EXPIRED:
        said, advice = "has expired", "ask the coordinator to renew it, if this clock is right"
    elif verify_code == NOT_YET_VALID:
        said, advice = "is not valid yet", "set this machine's clock"
    elif verify_code in (OTHER_HOST, OTHER_IP):
        said, advice = "is for another host name", "ask the coordinator to add this name to it"
    else:
        said = "is not from the CA that this site joined"
        advice = "do not go on: somebody answers in its place, or breaks TLS open on the way; call"
        advice += " the coordinator"
    return Finding("TLS", "fail", f"the server's certificate {said}", advice)


def _clock(address: str, ca: bytes, now: Callable[[], datetime]) -> Finding:
    if not address:
        advice = "add enrolment_address to [coordinator] in site.toml: the invitation names it"
        return Finding("clock", "warning", "not measured: no enrolment_address is known", advice)
    before = now()
    theirs = _coordinator_time(address, ca)
    if theirs is None:
        advice = f"let the firewall pass {address}, or ask the coordinator whether it is up to date"
        return Finding("clock", "warning", "not measured: the enrolment port does not tell", advice)
    skew = abs(theirs - (before + (now() - before) / 2))
    said = f"differs from the coordinator's by {skew.total_seconds():.0f} s"
    if skew < SKEW_WARNING:
        return Finding("clock", "ok", said)
    advice = "let this machine take its time from a time server"
    return Finding("clock", "fail" if skew > SKEW_FAIL else "warning", said, advice)


def _coordinator_time(address: str, ca: bytes) -> datetime | None:
    """What time it is at the coordinator, or None where nobody tells."""
    import grpc

    from cohortium.client.channel import open_channel

    with open_channel(address, ca) as channel:
        try:
            body: bytes = channel.unary_unary(TIME_METHOD)(b"", timeout=CONNECT_S)
            return datetime.fromtimestamp(int(body) / 1000, UTC)
        except (grpc.RpcError, ValueError, OverflowError, OSError):
            return None
