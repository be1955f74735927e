"""Stock Flower 1.36 as a user runs it: flower-superlink, flower-supernode, a bundle with FedAvg.

Started with the same TLS and node keys as ours. The run is submitted through the Control API
as `flwr run` does; everything that Flower fetches from the internet is switched off.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from flwr.cli.build import build_fab_from_files
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
)
from flwr.proto.control_pb2_grpc import ControlStub
from flwr.proto.fab_pb2 import Fab

from cohortium.common.identity import make_node_key
from cohortium.server.superlink import TlsFiles

PROJECT = """[project]
name = "stock"
version = "1.0.0"
description = "an echo with FedAvg"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "stock.server_app:app"
clientapp = "stock.client_app:app"
[tool.flwr.app.config]
rounds = {rounds}
nodes = {nodes}
values = {values}
out = "{out}"
"""

SERVER_APP = """
import json, time
from pathlib import Path
import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

@app.main()
def main(grid, context):
    config, seconds = context.run_config, []
    n = int(config["nodes"])
    arrays = ArrayRecord({"w": Array(np.zeros(int(config["values"]), np.float32))})
    for _ in range(int(config["rounds"])):
        strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=n,
                          min_evaluate_nodes=0, min_available_nodes=n)
        started = time.perf_counter()
        arrays = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=1).arrays
        seconds.append(time.perf_counter() - started)
        arrays = ArrayRecord({"w": Array(arrays["w"].numpy() + np.float32(1))})
    Path(str(config["out"])).write_text(json.dumps(seconds))
"""

CLIENT_APP = """
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    content = RecordDict({"arrays": message.content["arrays"],
                          "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)
"""


@contextmanager
def running(folder: Path, tls: TlsFiles, nodes: int, ports: list[int]) -> Iterator["StockFlower"]:
    """A SuperLink and its nodes, registered and online.

    Args:
        ports: 3 + nodes free ones.
    """
    folder.mkdir()
    fleet, control, runtime, *own = ports
    stock = StockFlower(folder, tls, control)
    try:
        stock.start(
            "flower-superlink",
            *("--ssl-ca-certfile", tls.ca, "--ssl-certfile", tls.certificate),
            *("--ssl-keyfile", tls.key, "--fleet-api-address", f"127.0.0.1:{fleet}"),
            *("--control-api-address", f"127.0.0.1:{control}", "--host", "127.0.0.1"),
            *("--port", runtime, "--enable-supernode-auth", "--database", folder / "state.db"),
            "--disable-runtime-dependency-installation",
        )
        grpc.channel_ready_future(stock.channel).result(60)
        for index, port in enumerate(own[:nodes]):
            key = folder / f"node{index}.key"
            stock.control.RegisterNode(RegisterNodeRequest(public_key=make_node_key(key)))
            stock.start(
                "flower-supernode",
                *("--root-certificates", tls.ca, "--superlink", f"127.0.0.1:{fleet}"),
                *("--auth-supernode-private-key", key, "--port", port),
            )
        stock.wait_for_nodes(nodes)
        yield stock
    finally:
        stock.stop()


class StockFlower:
    """Flower's own processes, each in a process group of its own."""

    def __init__(self, folder: Path, tls: TlsFiles, control_port: int) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        credentials = grpc.ssl_channel_credentials(tls.ca.read_bytes())
        self.channel = grpc.secure_channel(f"127.0.0.1:{control_port}", credentials)
        self.control = ControlStub(self.channel)

    def start(self, program: str, *options: object) -> None:
        """Start one of Flower's programs from this environment."""
        programs = Path(sys.executable).parent
        environment = os.environ | {
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_HOME": str(self.folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": os.pathsep.join((str(programs), os.environ.get("PATH", ""))),
        }
        with (self.folder / f"{len(self.processes)}-{program}.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    [str(programs / program), *map(str, options)],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def wait_for_nodes(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            nodes = self.control.ListNodes(ListNodesRequest()).nodes_info
            if sum(node.status == "online" for node in nodes) == count:
                return
            time.sleep(0.2)
        raise TimeoutError(f"stock nodes did not come online; see {self.folder}")

    def rounds(self, count: int, nodes: int, values: int) -> list[float]:
        """Seconds of each of `count` FedAvg rounds over a flat model of `values` float32."""
        out = self.folder / "seconds.json"
        project = PROJECT.format(rounds=count, nodes=nodes, values=values, out=out)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            bundle, _ = build_fab_from_files(
                {
                    "pyproject.toml": project.encode(),
                    "stock/__init__.py": b"\n",
                    "stock/server_app.py": SERVER_APP.encode(),
                    "stock/client_app.py": CLIENT_APP.encode(),
                }
            )
        fab = Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle)
        run_id = self.control.StartRun(StartRunRequest(fab=fab)).run_id
        deadline = time.monotonic() + 60 + 20 * count
        while time.monotonic() < deadline:
            runs = self.control.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
            if runs[run_id].status.status == "finished":
                break
            time.sleep(0.5)
        if not out.exists():
            raise RuntimeError(f"the stock run did not finish; see {self.folder}")
        return [float(second) for second in json.loads(out.read_text())]

    def stop(self) -> None:
        self.channel.close()
        for process in reversed(self.processes):
            try:
                os.killpg(process.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                pass
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
