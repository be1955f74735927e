"""How long a round of a tiny model takes besides training, and what an idle site costs.

    python -m benchmarks.rounds [--rounds 8] [--json]

Four nodes in four processes echo a flat model of 2,000 float32 over TLS on this machine: ours
(FlowerSites and our node) beside stock Flower 1.36 (its SuperLink, SuperNodes and FedAvg). The
floor is the same four echoes without anything between: one TLS gRPC call to each, all at once.
"""

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing.context import SpawnProcess
from pathlib import Path

import grpc
import numpy as np

from benchmarks import stock_flower
from cohortium.client.line import FleetConnection
from cohortium.client.node import serve
from cohortium.common import identity
from cohortium.server.flower_sites import FlowerSites
from cohortium.server.superlink import SuperLink, TlsFiles

NODES = 4
VALUES = 2_000
SETTLE_S = 15.0  # until an idle node polls as seldom as it ever does
IDLE_S = 30.0
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Row:
    case: str
    unit: str
    ours: float
    peer: float | None
    peer_name: str
    floor: float | None
    ours_over_floor: float | None
    peer_over_floor: float | None
    repeats: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tls = _make_tls(folder)
        floor = _floor(tls, options.rounds)
        ours, ours_idle = _ours(folder, tls, options.rounds)
        stock, stock_idle = _stock(folder, tls, options.rounds)
    rows = [
        _row("a round of four sites", "s", ours, stock, floor, options.rounds),
        _row("an idle site", "% of a core", [ours_idle], [stock_idle], None, 1),
    ]
    _print(rows, as_json=options.json)


def _row(
    case: str, unit: str, ours: list[float], peer: list[float], floor: list[float] | None, n: int
) -> Row:
    mine, theirs = statistics.median(ours), statistics.median(peer)
    least = statistics.median(floor) if floor else None
    return Row(
        case=case,
        unit=unit,
        ours=mine,
        peer=theirs,
        peer_name="Flower 1.36 (SuperNode, FedAvg)",
        floor=least,
        ours_over_floor=mine / least if least else None,
        peer_over_floor=theirs / least if least else None,
        repeats=n,
    )


def _print(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    print(f"{os.cpu_count()} cores, {NODES} nodes, {VALUES} float32, medians")
    print(f"{'':24}{'unit':>12}{'ours':>10}{'Flower':>10}{'floor':>10}")
    for row in rows:
        floor = "" if row.floor is None else f"{row.floor:.4f}"
        print(f"{row.case:24}{row.unit:>12}{row.ours:>10.3f}{row.peer:>10.3f}{floor:>10}")
    print(
        "Flower: stock flower-superlink and flower-supernode, run submitted through the Control\n"
        "API as `flwr run` does it; each message starts a ClientApp process, as always there."
    )


def _ours(folder: Path, tls: TlsFiles, rounds: int) -> tuple[list[float], float]:
    """Seconds of each round, then the idle share of a core of one node, in percent."""
    port = free_ports(1)[0]
    superlink = SuperLink(folder / "ours", tls, "127.0.0.1", port, folder / "ours.log")
    superlink.start()
    ids, processes = {}, []
    try:
        for index in range(NODES):
            name, key = f"site{index}", folder / f"site{index}.key"
            ids[name] = superlink.register_node(identity.make_node_key(key))
            connection = FleetConnection(f"127.0.0.1:{port}", tls.ca.read_bytes(), key, name)
            processes.append(_spawn(_echo_node, connection))
        while list(superlink.nodes().values()).count("online") < NODES:
            time.sleep(0.1)
        sites = FlowerSites(superlink, ids)
        model = np.zeros(VALUES, np.float32)
        seconds = []
        for _ in range(rounds + 1):  # the first one warms up, there as here
            started = time.perf_counter()
            model = _average(sites, ids, model)
            seconds.append(time.perf_counter() - started)
        sites.close(completed=True)
        return seconds[1:], _idle_percent([p.pid or 0 for p in processes])
    finally:
        for process in processes:
            process.kill()
            process.join()
        superlink.stop()


def _average(sites: FlowerSites, ids: dict[str, int], model: np.ndarray) -> np.ndarray:
    replies = sites.ask(dict.fromkeys(ids, b""), model.tobytes(), deadline_s=60)
    parts = [np.frombuffer(reply, np.float32) for _, reply in replies]
    if len(parts) != NODES:
        raise RuntimeError(f"only {len(parts)} sites replied: {sites.failures}")
    return np.asarray(np.mean(parts, axis=0), np.float32) + np.float32(1)


def _stock(folder: Path, tls: TlsFiles, rounds: int) -> tuple[list[float], float]:
    with stock_flower.running(folder / "stock", tls, NODES, free_ports(3 + NODES)) as stock:
        seconds = stock.rounds(rounds + 1, NODES, VALUES)[1:]
        groups = [process.pid for process in stock.processes[1:]]
        return seconds, _idle_percent(groups)


def _floor(tls: TlsFiles, rounds: int) -> list[float]:
    """One TLS gRPC echo to each of four processes, all at once."""
    ports = free_ports(NODES)
    processes = [_spawn(_echo_server, port, tls) for port in ports]
    credentials = grpc.ssl_channel_credentials(tls.ca.read_bytes())
    channels = [grpc.secure_channel(f"127.0.0.1:{port}", credentials) for port in ports]
    payload, seconds = np.zeros(VALUES, np.float32).tobytes(), []
    try:
        for channel in channels:
            grpc.channel_ready_future(channel).result(60)
        for _ in range(rounds + 1):
            started = time.perf_counter()
            calls = [channel.unary_unary("/floor/echo").future(payload) for channel in channels]
            for call in calls:
                call.result()
            seconds.append(time.perf_counter() - started)
        return seconds[1:]
    finally:
        for channel in channels:
            channel.close()
        for process in processes:
            process.kill()
            process.join()


def _spawn(target: Callable[..., None], *arguments: object) -> SpawnProcess:
    process = SPAWN.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def _echo_node(connection: FleetConnection) -> None:
    serve(connection, lambda request: request, threading.Event(), lambda _: None)


def _echo_server(port: int, tls: TlsFiles) -> None:
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    server = grpc.server(
        ThreadPoolExecutor(1),
        handlers=[grpc.method_handlers_generic_handler("floor", {"echo": handler})],
    )
    pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair]))
    server.start()
    server.wait_for_termination()


def _idle_percent(groups: list[int]) -> float:
    """Mean share of a core, over some idle time, of each process with its children."""
    time.sleep(SETTLE_S)
    before, started = sum(map(_cpu_s, groups)), time.perf_counter()
    time.sleep(IDLE_S)
    spent = sum(map(_cpu_s, groups)) - before
    return 100 * spent / (time.perf_counter() - started) / len(groups)


def _cpu_s(leader: int) -> float:
    """User and system seconds (proc(5), stat fields 14 and 15) of a process and its descendants."""
    fields = {
        int(path.parent.name): path.read_text().rpartition(")")[2].split()
        for path in Path("/proc").glob("[0-9]*/stat")
        if path.exists()
    }
    family = {leader}
    while more := {pid for pid, f in fields.items() if int(f[1]) in family} - family:
        family |= more
    ticks = sum(int(fields[pid][11]) + int(fields[pid][12]) for pid in family if pid in fields)
    return ticks / os.sysconf("SC_CLK_TCK")


def _make_tls(folder: Path) -> TlsFiles:
    ca = identity.make_ca("Benchmark CA", datetime.now(UTC))
    ca.save(folder / "ca.key", folder / "ca.pem")
    server = identity.issue_server_certificate(ca, ["localhost"], datetime.now(UTC), days=2)
    server.save(folder / "server.key", folder / "server.pem")
    return TlsFiles(folder / "ca.pem", folder / "server.pem", folder / "server.key")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all different."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


if __name__ == "__main__":
    main()
