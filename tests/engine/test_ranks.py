"""Ranks on one node and on several: what they give, and how all end where one raises, is killed or
hangs."""

import base64
import io
import ipaddress
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from tests import ROOT, stages
from tests.engine.test_loop import SHORT, same, weights_of
from tests.headless.test_execute import notebook, status
from vidbench.engine import meeting, ranks
from vidbench.engine.runs import Run, recipe_dict
from vidbench.system.signals import Interrupted

RECIPE = recipe_dict(replace(SHORT, epochs=3))  # of 6 steps, of which the tenth tears
HANG_TIMEOUT = 8  # seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def node(code: str, *words, before: tuple = (), **environment) -> subprocess.Popen:
    """A process that is a node: Python code, its words in sys.argv, in `words` where `before` puts
    it."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        meeting.SECRET: "0123456789abcdef",
        **environment,
    }
    return subprocess.Popen(
        [*before, sys.executable, "-c", code, *map(str, words)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )


def listened(nodes: list[subprocess.Popen], seconds: float = 180) -> dict[int, set[str]]:
    """Process -> addresses on which it listened, sampled over the whole process trees until all
    nodes have ended."""
    found: dict[int, set[str]] = {}
    roots, end = [psutil.Process(one.pid) for one in nodes], time.monotonic() + seconds
    while any(one.poll() is None for one in nodes) and time.monotonic() < end:
        time.sleep(0.05)
        for root in roots:
            with suppress(psutil.NoSuchProcess):
                for process in [root, *root.children(recursive=True)]:
                    with suppress(psutil.NoSuchProcess):
                        for one in process.net_connections(kind="inet"):
                            if one.status == psutil.CONN_LISTEN:
                                found.setdefault(process.pid, set()).add(one.laddr.ip)
    return found


def ends(nodes: list[subprocess.Popen], seconds: float = 120) -> list[str]:
    """What each of them said. None outlives the test."""
    try:
        return [one.communicate(timeout=seconds)[0] for one in nodes]
    finally:
        for one in nodes:
            one.kill()


# ------------------------------------------------------------------------------------ on one node


@dataclass(frozen=True)
class Launch:
    """What came of two ranks that nothing happens to."""

    folder: Path  # the runs `curve`, without dropout, and `whole`, with it; streams in `logs`
    returned: int
    teed: str
    kept_handlers: bool


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> Launch:
    """One launch, whose ranks print and train twice."""
    folder, teed = tmp_path_factory.mktemp("launched"), io.StringIO()
    runs = [
        (recipe_dict(SHORT), str(folder / "curve"), 0.0),
        (RECIPE, str(folder / "whole"), 0.2),
    ]
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with redirect_stdout(teed):
        returned = ranks.launch(
            "tests.stages:says_and_trains", "hello", runs, nproc=2, log_dir=folder / "logs"
        )
        time.sleep(0.2)
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return Launch(folder, returned, teed.getvalue(), handlers == after)


@pytest.fixture(scope="module")
def whole(launched) -> Run:
    """What two ranks train that nothing happens to."""
    return Run(launched.folder / "whole")


def test_two_ranks_give_one_processes_loss_curve(launched, tmp_path):
    two = launched.folder / "curve"
    stages.regress(recipe_dict(SHORT), str(tmp_path / "one"))
    left, right = (Run(folder).curves() for folder in (tmp_path / "one", two))
    assert left["step"] == right["step"] and left["loss"] == pytest.approx(right["loss"], rel=1e-4)
    for a, b in zip(weights_of(tmp_path / "one").values(), weights_of(two).values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_launch_tees_rank_0_keeps_each_ranks_streams_and_returns(launched):
    assert launched.returned == 1
    assert (
        "[rank 0] hello from 0 of 2" in launched.teed.replace("[rank 0]hello", "[rank 0] hello")
        and "from 1" not in launched.teed
    )
    logs = (launched.folder / "logs").rglob("stdout.log")
    assert "hello from 1 of 2" in {path.parent.name: path.read_text() for path in logs}["1"]
    assert launched.kept_handlers, "Ctrl-C is as before"


@pytest.mark.slow
def test_launch_takes_from_the_environment_what_the_call_leaves_open(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert ranks.launch("os:getpid", nproc=0) == os.getpid(), "one process a GPU, or one"
    monkeypatch.setenv("VIDBENCH_NPROC", "2")
    monkeypatch.setenv("VIDBENCH_RANK_LOGS", str(tmp_path))
    assert ranks.launch("tests.stages:says", "hi", nproc=0) == 1 and list(
        tmp_path.rglob("stdout.log")
    )
    assert ranks.launch("os:getpid", nproc=1) == os.getpid()
    monkeypatch.setenv("VIDBENCH_NPROC", "two")
    with pytest.raises(ValueError, match="VIDBENCH_NPROC needs a whole number; got 'two'"):
        ranks.launch("os:getpid", nproc=0)


def test_launch_refuses_what_ranks_cannot_import_and_endpoints_without_port_secret_or_trust(
    monkeypatch,
):
    with pytest.raises(ValueError, match="importable"):
        ranks.launch("tests.stages:nowhere", nproc=2)
    monkeypatch.delenv("VIDBENCH_SECRET", raising=False)
    for endpoint, says in (
        ("", "needs one endpoint"),
        ("nonsense", "must be host:port"),
        ("127.0.0.1:x", "host:port"),
        ("8.8.8.8:29400", "is the public address 8.8.8.8"),
        ("[2001:4860::1]:1", "public address"),
        ("0.0.0.0:1", "which is 0.0.0.0"),
        ("127.0.0.1:1", "VIDBENCH_SECRET must"),
    ):
        with pytest.raises(ValueError, match=says):
            ranks.launch("tests.stages:says", "x", nnodes=2, endpoint=endpoint)
    monkeypatch.setenv("VIDBENCH_TRUSTED_NETWORK", "1")
    with pytest.raises(ValueError, match="VIDBENCH_SECRET must be"):
        ranks.launch("tests.stages:says", "x", nnodes=2, endpoint="8.8.8.8:29400")
    own = [
        (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.1.1", 29400))
    ]  # by /etc/hosts, as Debian writes it
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **more: own)
    with pytest.raises(ValueError, match="got 'node0:29400', which is 127.0.1.1 on this machine"):
        ranks.launch("tests.stages:says", "x", nnodes=2, endpoint="node0:29400")


@pytest.mark.parametrize(
    "how, sign",
    [
        ("raises", r"rank 1 failed first:(?s:.*)shelf 42 is torn(?s:.*)output is below"),
        pytest.param(
            "hangs",
            r"rank 0 waited in vain .*\n(?s:.*)rank 1 hung, most recent call first:(?s:.*) in "
            r"fails\n",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_failing_rank_ends_all_soon_and_shows_its_cause(tmp_path, how, sign):
    began = time.monotonic()
    with pytest.raises(ranks.RankError, match=sign):
        ranks.launch(
            "tests.stages:fails_on_rank_1",
            how,
            nproc=2,
            log_dir=tmp_path,
            hang_timeout=HANG_TIMEOUT,
        )
    # soon, not after torch's own ten minutes, however busy the machine is
    assert time.monotonic() - began < HANG_TIMEOUT + 120


@pytest.mark.parametrize(
    "how",
    [
        "killed",
        pytest.param("raises", marks=pytest.mark.slow),
        pytest.param("hangs", marks=pytest.mark.slow),
    ],
)
def test_training_goes_on_after_a_rank_failed_as_if_nothing_had_been(tmp_path, whole, how):
    given = (RECIPE, str(tmp_path / "run"), 0.2, -1, 0.0, (str(tmp_path / "torn"), how))

    def train():
        ranks.launch(
            "tests.stages:regress",
            *given,
            nproc=2,
            log_dir=tmp_path / "logs",
            hang_timeout=HANG_TIMEOUT,
        )

    with pytest.raises(ranks.RankError) as caught:
        train()
    killed = r"rank 1 was ended by (SIGKILL|Signal 9).*; out of memory\?"
    assert how != "killed" or re.search(killed, str(caught.value)), caught.value
    run = Run(tmp_path / "run")
    assert run.state == "failed" and run.checkpoint().name == "step-000000006"
    train()
    run = Run(tmp_path / "run")
    assert (
        (tmp_path / "torn").exists()
        and run.state == "complete"
        and same(run.weights(), whole.weights())
    )
    assert run.curves()["loss"] == whole.curves()["loss"]


@pytest.mark.slow
def test_a_restart_that_fails_again_shows_the_last_cause(tmp_path):
    with pytest.raises(ranks.RankError, match="shelf 42 is torn"):
        ranks.launch(
            "tests.stages:fails_on_rank_1", "raises", nproc=2, log_dir=tmp_path, restarts=1
        )
    assert sorted(path.name for path in tmp_path.glob("failed-*-1.json")) == [
        "failed-0-1.json",
        "failed-1-1.json",
    ]


def test_a_signal_to_the_launcher_lets_the_ranks_save(tmp_path):
    """This process is the launcher: a thread sends it the signal when the log has a line."""
    log, done = tmp_path / "run" / "metrics.jsonl", threading.Event()

    def stop() -> None:
        while not (log.exists() and log.read_text().strip()):
            if done.wait(0.1):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    def late(number: int, _) -> None:
        """The signal came after the launch, whose handlers are gone."""

    before, sender = signal.signal(signal.SIGTERM, late), threading.Thread(target=stop)
    sender.start()
    given = (RECIPE, str(tmp_path / "run"), 0.2, -1, 0.3)
    try:
        with pytest.raises(Interrupted, match="saved. The same call resumes it"):
            ranks.launch("tests.stages:regress", *given, nproc=2, log_dir=tmp_path / "logs")
    finally:
        done.set()
        sender.join()
        signal.signal(signal.SIGTERM, before)
    run = Run(tmp_path / "run")
    assert run.state == "interrupted" and run.checkpoint().name != "step-000000000"
    stages.regress(RECIPE, str(tmp_path / "run"), 0.2)  # one process is enough to end it
    assert run.state == "complete"


MAIN = "import sys; from vidbench.__main__ import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_one_machine_listens_on_loopback_only(tmp_path, whole):
    """Command, kernel, launcher and ranks, with a restart, while the environment names another
    interface."""
    torn = "f'{folder}/run', 0.2, -1, 0.0, (f'{folder}/torn', 'killed'), nproc=0"
    book = notebook(
        tmp_path / "book.ipynb",
        "from vidbench.engine import ranks",
        f"ranks.launch('tests.stages:regress', {RECIPE!r}, {torn})",
        parameters=f"folder: str = {str(tmp_path)!r}",
    )
    words = ["run", book, "--out", tmp_path / "out", "--nproc", "2", "--restarts", "1"]
    (tmp_path / "tmp").mkdir()
    elsewhere = next((name for name in psutil.net_if_addrs() if name != "lo"), "lo")
    process = node(
        MAIN,
        *words,
        PYTHONPATH=str(ROOT),
        TMPDIR=str(tmp_path / "tmp"),
        GLOO_SOCKET_IFNAME=elsewhere,
    )
    found = listened([process])
    (said,) = ends([process], 1)
    assert process.returncode == 0, said
    assert (tmp_path / "torn").exists() and same(Run(tmp_path / "run").weights(), whole.weights())
    assert len(found) >= 5, "the kernel and, before and after the restart, two connected ranks"
    assert all(
        ipaddress.ip_address(ip).is_loopback for places in found.values() for ip in places
    ), found
    assert not list((tmp_path / "tmp").glob("vidbench-store-*")), "the store is deleted"


# ------------------------------------------------------------------------------- on several nodes

LAUNCH = """import sys
from vidbench.engine import ranks
for word in ("hi", "there"):
    print(word, "sum", ranks.launch("tests.stages:says", word, nnodes=2, endpoint=sys.argv[1], log_dir=sys.argv[2]))
"""
FAILS = """import sys
from vidbench.engine import ranks
ranks.launch("tests.stages:fails_on_rank_1", sys.argv[3], nnodes=2, endpoint=sys.argv[1], log_dir=sys.argv[2],
             hang_timeout=8)
"""


@pytest.mark.slow
def test_two_nodes_share_one_stage_after_the_other(tmp_path):
    """The same calls on two 'nodes' with one c10d endpoint, as on a cluster; all listen on its
    address only."""
    endpoint = f"127.0.0.1:{free_port()}"
    nodes = [node(LAUNCH, endpoint, tmp_path / str(number)) for number in range(2)]
    found = listened(nodes)
    said = ends(nodes, 1)
    assert len(found) >= 4 and set.union(*found.values()) == {"127.0.0.1"}, found
    assert [one.returncode for one in nodes] == [0, 0], said
    assert all("hi sum 1" in text and "there sum 1" in text for text in said)


class Payload:
    """What a stranger leaves in the store: whoever unpickles it makes the folder."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.slow
def test_a_state_without_the_secret_is_not_unpickled(tmp_path):
    port, made = free_port(), tmp_path / "made"
    waiting = node(LAUNCH, f"127.0.0.1:{port}", tmp_path / "logs")
    try:
        stranger = dist.TCPStore("127.0.0.1", port, timeout=timedelta(seconds=60))
        while not (keys := [key for key in stranger.list_keys() if "torch.rendezvous." in key]):
            time.sleep(0.1)
        stranger.set(
            keys[0].removeprefix("/"), base64.b64encode(pickle.dumps(Payload(made))).decode()
        )
        (said,) = ends([waiting])
    finally:
        waiting.kill()
    assert not made.exists() and waiting.returncode == 1
    assert "another VIDBENCH_SECRET, or a stranger wrote" in said


@pytest.mark.slow
@pytest.mark.parametrize("how", ["raises", "killed", "hangs"])
def test_a_rank_that_fails_on_one_node_ends_both(tmp_path, how):
    endpoint = f"127.0.0.1:{free_port()}"
    nodes = [node(FAILS, endpoint, tmp_path / str(number), how) for number in range(2)]
    said = ends(nodes)
    assert all(
        one.returncode == 1 and "RankError" in text for one, text in zip(nodes, said, strict=True)
    ), said
    if (
        how == "killed"
    ):  # only its own node's launcher sees that; the other rank lost its connection
        guilty = ["rank 1 was ended by" in text for text in said]
        elsewhere = [
            "It lost a rank of another node: the cause is in that node's output." in text
            for text in said
        ]
        assert sorted(guilty) == [False, True] and elsewhere == [not one for one in guilty], said
    else:
        signs = (
            ["shelf 42 is torn"] * 2
            if how == "raises"
            else ["rank 1 hung", "rank 0 waited in vain|rank 0 failed"]
        )
        assert any(re.search(signs[0], text) for text in said), said
        assert all(re.search("|".join(signs), text) for text in said), said


RESTARTS = """import sys, json
from vidbench.engine import ranks
ranks.launch("tests.stages:regress", json.loads(sys.argv[3]), sys.argv[4], 0.2, -1, 0.0, (sys.argv[5], "killed"),
             nnodes=2, endpoint=sys.argv[1], log_dir=sys.argv[2], restarts=1)
"""


@pytest.mark.slow
def test_a_rank_that_is_killed_on_one_node_is_started_anew_on_both(tmp_path, whole):
    endpoint = f"127.0.0.1:{free_port()}"
    nodes = [
        node(
            RESTARTS,
            endpoint,
            tmp_path / str(number),
            json.dumps(RECIPE),
            tmp_path / "run",
            tmp_path / "torn",
        )
        for number in range(2)
    ]
    said = ends(nodes)
    assert [one.returncode for one in nodes] == [0, 0] and (tmp_path / "torn").exists(), said
    assert same(Run(tmp_path / "run").weights(), whole.weights())
    attempts = {path.name.split("-")[1] for path in tmp_path.glob("*/failed-*")}
    assert attempts == {"0"}, (
        "the node whose rank did not fail is started again with the other, in the same attempt"
    )


@pytest.mark.slow
def test_a_node_that_is_killed_ends_the_other(tmp_path):
    endpoint = f"127.0.0.1:{free_port()}"
    nodes = [node(FAILS, endpoint, tmp_path / str(number), "hangs") for number in range(2)]
    while not all(any((tmp_path / str(number)).rglob("stderr.log")) for number in range(2)):
        time.sleep(0.2)
    time.sleep(3)
    nodes[0].kill()
    began = time.monotonic()
    said = ends(nodes[1:])
    assert nodes[1].returncode == 1 and "RankError" in said[0] and time.monotonic() - began < 60


@pytest.fixture
def hosts(tmp_path):
    """Two network namespaces with a cable between them: prefixes of commands in them, and the first
    one's address."""
    if not shutil.which("ip") or os.geteuid():
        pytest.skip("network namespaces want root and the command ip (Debian: iproute2)")
    names = [f"vidbench{os.getpid()}{end}" for end in "ab"]
    links = [f"vb{os.getpid()}{end}" for end in "ab"]

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, text=True)

    made = ip("netns", "add", names[0])
    if made.returncode:
        pytest.skip(f"no network namespace: {made.stderr}")
    try:
        ip("netns", "add", names[1])
        ip(
            "link",
            "add",
            links[0],
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            links[1],
            "netns",
            names[1],
        )
        for number, (name, link) in enumerate(zip(names, links, strict=True), 1):
            ip("-n", name, "addr", "add", f"11.77.0.{number}/24", "dev", link)
            for device in ("lo", link):
                ip("-n", name, "link", "set", device, "up")
        yield [("ip", "netns", "exec", name) for name in names], "11.77.0.1"
    finally:
        for name in names:
            ip("netns", "delete", name)


@pytest.mark.slow
def test_two_hosts_train_by_the_same_command_and_each_names_its_output(tmp_path, hosts, whole):
    """A notebook on two machines of different public addresses, whose names say nothing of where
    they are."""
    inside, address = hosts
    cells = f"ranks.launch('tests.stages:regress', {RECIPE!r}, f'{{folder}}/run', 0.2, nproc=0)"
    book = notebook(
        tmp_path / "book.ipynb",
        "from vidbench.engine import ranks",
        cells,
        "print('world', ranks.launch('tests.stages:says', 'hi', nproc=0))",
        parameters=f"folder: str = {str(tmp_path)!r}",
    )
    words = [
        "run",
        book,
        "--out",
        tmp_path / "out",
        "--nproc",
        "1",
        "--nnodes",
        "2",
        "--endpoint",
        f"{address}:29477",
        "--trusted-network",
    ]
    nodes = [
        node(MAIN, *words, "--node", name, before=before, PYTHONPATH=str(ROOT))
        for name, before in zip("ab", inside, strict=True)
    ]
    said = ends(nodes, 180)
    assert [one.returncode for one in nodes] == [0, 0], said
    assert all("world 1" in text for text in said)
    for name in "ab":
        assert status(tmp_path / "out" / f"book-{name}.ipynb")["state"] == "complete"
        assert list((tmp_path / "out" / f"book-{name}.ranks").rglob("stdout.log"))
    assert same(Run(tmp_path / "run").weights(), whole.weights())


SRUN = """#!/bin/bash
# Two tasks, as srun starts them on two nodes; signals go to both, and the highest exit code is its own.
shift
for number in 0 1; do SLURM_NODEID=$number "$@" & tasks+=($!); done
trap 'kill -TERM "${tasks[@]}"' TERM
highest=0
for task in "${tasks[@]}"; do
    while wait "$task"; code=$?; [ "$code" -gt 128 ] && kill -0 "$task" 2>/dev/null; do :; done
    [ "$code" -gt "$highest" ] && highest=$code
done
exit "$highest"
"""


@pytest.mark.slow
def test_a_slurm_job_of_two_nodes_saves_itself_before_the_limit_and_goes_on(tmp_path, whole):
    """No Slurm here: bash, its variables, a script as srun, and an scontrol that writes down its
    arguments."""
    train = f"ranks.launch('tests.stages:regress', {RECIPE!r}, f'{{folder}}/run', 0.2, -1, pause, nproc=0)"
    book = notebook(
        tmp_path / "book.ipynb",
        "from vidbench.engine import ranks",
        train,
        parameters=f"folder: str = {str(tmp_path)!r}\npause: float = 0.0",
    )
    commands = {
        "srun": SRUN,
        "vidbench": f'#!/bin/sh\nexec {sys.executable} -m vidbench "$@"\n',
        "scontrol": '#!/bin/sh\nif [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> '
        f"{tmp_path}/requests; fi\n",
    }
    (tmp_path / "bin").mkdir()
    for name, text in commands.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {
        **os.environ,
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_NNODES": "2",
        "VIDBENCH_PORT": str(free_port()),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }

    def job(*more) -> subprocess.Popen:
        words = [
            "bash",
            ROOT / "assets" / "slurm_nodes.sh",
            book,
            "--out",
            tmp_path / "out",
            "--nproc",
            "1",
            *more,
        ]
        return subprocess.Popen(
            words,
            env=environment,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    first, log = job("-p", "pause", "0.5"), tmp_path / "run" / "metrics.jsonl"
    try:
        while not (log.exists() and log.read_text().strip()):
            assert first.poll() is None, first.communicate()[0]
            time.sleep(0.1)
        first.send_signal(signal.SIGUSR1)
        said = first.communicate(timeout=90)[0]
    finally:
        first.kill()
    assert first.returncode == 130 and Run(tmp_path / "run").state == "interrupted", said
    assert (tmp_path / "requests").read_text() == "requeue 77\n"
    second = job()
    said = ends([second])
    assert second.returncode == 0, said
    assert all(
        status(tmp_path / "out" / f"book-node{number}.ipynb")["state"] == "complete"
        for number in range(2)
    )
    assert same(Run(tmp_path / "run").weights(), whole.weights())


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen", "device"),
    [
        (False, False, "", "cpu"),
        (True, False, "", "cuda:1"),
        (False, True, "", "mps"),
        (True, True, "cpu", "cpu"),
    ],
)
def test_the_device_of_a_rank(monkeypatch, cuda, mps, chosen, device):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("VIDBENCH_DEVICE", chosen)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert str(ranks.device()) == device
