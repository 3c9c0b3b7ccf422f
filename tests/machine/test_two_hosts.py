"""Two hosts: network namespaces with a cable between them, and torchrun on each.

All traffic is on the addresses of those namespaces. Skipped without root and iproute2.
"""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from ranks import assert_same_rows, rows_of
from test_torchrun import wait_for_step

from nanogpkant.cli import main

FLAGS = ["--model.dropout", 0, "--train.max_iters", 60, "--train.eval_interval", 20]
FLAGS += ["--train.sample_tokens", 0, "--train.timeout", 8]
FLAGS += ["--optim.learning_rate", 1e-3]  # rounding grows with the rate and the number of steps


def ip(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Hosts:
    """Two network namespaces, 10.77.0.1 and 10.77.0.2, joined by a pair of virtual interfaces."""

    def __init__(self) -> None:
        tag = uuid.uuid4().hex[:6]
        self.names, self.cards = [[f"{kind}{tag}-{i}" for i in (0, 1)] for kind in ("ngk", "nv")]

    def open(self) -> None:
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", self.cards[0], "type", "veth", "peer", "name", self.cards[1])
        for number, (name, card) in enumerate(zip(self.names, self.cards, strict=True)):
            ip("link", "set", card, "netns", name)
            ip("-n", name, "address", "add", f"10.77.0.{number + 1}/24", "dev", card)
            ip("-n", name, "link", "set", card, "up")
            ip("-n", name, "link", "set", "lo", "up")

    def close(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", self.cards[0]], check=False, capture_output=True)

    def cable(self, state: str) -> None:
        """Plug in ("up") or pull ("down")."""
        ip("-n", self.names[1], "link", "set", self.cards[1], state)

    def torchrun(self, host: int, flags: list) -> subprocess.Popen:
        command = ["ip", "netns", "exec", self.names[host], sys.executable]
        command += ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
        command += [
            "--node_rank",
            str(host),
            "--master_addr",
            "10.77.0.1",
            "--master_port",
            "29400",
        ]
        command += ["-m", "nanogpkant", *map(str, flags)]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": self.cards[host], "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, stderr=subprocess.PIPE, encoding="utf-8", env=environment, text=True
        )


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if not hasattr(os, "geteuid") or os.geteuid() or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2")
    made = Hosts()
    try:
        try:
            made.open()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        yield made
    finally:
        made.close()


def test_a_cable_is_pulled(hosts: Hosts, tiny_experiment: Path, tmp_path: Path):
    """Both hosts say so soon; and one continues alone, to where one process would have got."""
    alone, out = tmp_path / "alone", tmp_path / "r"
    flags = ["train", tiny_experiment, *FLAGS, "--out"]
    assert main(list(map(str, [*flags, alone]))) == 0
    launched = [hosts.torchrun(host, [*flags, out]) for host in (0, 1)]
    try:
        wait_for_step(out, 25, launched[0])
        hosts.cable("down")
        errors = [each.communicate(timeout=120)[1] for each in launched]
    finally:
        for each in launched:
            each.kill()
    for each, said in zip(launched, errors, strict=True):
        assert each.returncode == 1, said
        assert "another process of this run" in said
    rows = rows_of(out)
    assert 25 <= rows[-1]["step"] < 60
    assert main(list(map(str, [*flags, out, "--resume"]))) == 0
    assert_same_rows(out, alone)
