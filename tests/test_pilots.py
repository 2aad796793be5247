"""Pilots: workers that connect to the study, by ssh through a real sshd on loopback; skipped where there is none."""

import csv
import hmac
import math
import os
import pickle
import resource
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from faults.network import Network
from faults.objectives import Patient, Plain, Seeing
from test_carried import came_to, leaving, left, tuned
from test_conformance import complaints

from halving.conformance import conform
from halving.errors import UserError
from halving.executors import Serial, pilot
from halving.executors.pilot import gpus, join, places
from halving.executors.pilots import Pilots
from halving.executors.signed import Signed
from halving.executors.ssh import SSH
from halving.executors.work import Lost, Ready
from halving.journal import FILE, read, replay
from halving.training.own import Trainings
from halving.trial import Epoch, Job, Restarted, Step

SMALL = ("model=softmax", "data.train_samples=100", "r_max=3", "tracker=none", "executor.threads=1", "scheduler=sha")
_SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

needs_sshd = pytest.mark.skipif(
    not (_SSHD and shutil.which("ssh") and os.geteuid() == 0), reason="no sshd can be run here: install openssh-server"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as end:
        return end.getsockname()[1]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An sshd with keys of its own, which `ssh a` and `ssh b` reach, with temporary files in this path."""
    there, port = tmp_path_factory.mktemp("sshd"), free_port()
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", there / key], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)  # which it insists on
    (there / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {there}/host\nAuthorizedKeysFile {there}/user.pub\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nMaxStartups 50\n"
        f"SetEnv TMPDIR={there} CUDA_VISIBLE_DEVICES=4,5\n"
    )
    (there / "config").write_text(
        f"Host a b\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {there}/user\n"
        f"Host nobody\n  HostName 127.0.0.1\n  Port {free_port()}\n"
        f"Host *\n  IdentitiesOnly yes\n  StrictHostKeyChecking no\n  UserKnownHostsFile {there}/known\n"
    )
    (there / "bin").mkdir()
    (there / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {there}/config "$@"\n')
    (there / "bin" / "ssh").chmod(0o755)
    sshd = subprocess.Popen([str(_SSHD), "-D", "-f", there / "sshd_config", "-E", there / "log"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{there / 'bin'}{os.pathsep}{os.environ['PATH']}")
        deadline = time.monotonic() + 60
        while subprocess.run(["ssh", "a", "true"], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, (there / "log").read_text()
        yield there
    sshd.terminate()
    sshd.wait()


def rows(run_dir: Path) -> list[dict[str, str]]:
    """Return a study's results, but for what the clock said."""
    with (run_dir / "results.csv").open(newline="") as file:
        return sorted(({**row, "seconds": ""} for row in csv.DictReader(file)), key=lambda row: sorted(row.items()))


def pilots(there: Path) -> set[int]:
    """Return the processes that are pilots, of those whose environment names a directory."""
    found = subprocess.run(["pgrep", "-f", "halving.executors.pilot import main"], capture_output=True, check=False)
    pids = set[int]()
    for process in (Path("/proc") / pid for pid in found.stdout.decode().split()):
        with suppress(OSError):
            mine = str(there).encode() in (process / "environ").read_bytes()
            if mine and (process / "comm").read_text().startswith("python"):
                pids.add(int(process.name))
    return pids


def test_a_pilot_gives_up_whoever_has_the_port_of_a_study_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot, "GREETING", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError, match="temporarily unavailable"):
        join({"host": "127.0.0.1", "port": silent.getsockname()[1], "key": "00" * 32})


def nobody_left(there: Path) -> bool:
    deadline = time.monotonic() + 60
    while (left := pilots(there)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        words = ["ps", "--forest", "-o", "pid,ppid,etimes,stat,wchan:24,args", "-g", str(os.getsid(pid))]
        print(subprocess.run(words, capture_output=True, text=True, check=False).stdout)
    return not left


class Nobody:
    """Starts no pilot, and notes what one would be told."""

    def start(self, host: str, port: int, key: bytes) -> None:
        self.host, self.port, self.key = host, port, key

    def tend(self, joined: Any) -> Iterator[str]:
        return iter(())

    def places(self) -> int:
        return 1

    def blames(self, name: str) -> bool:
        return False

    def close(self) -> None: ...


class Trap:
    """What leaves a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self._file,)


def heard(backend: Pilots) -> list[Any]:
    said: list[Any] = []
    while not said:
        said += backend.listen(0.1)
    return said


class Between:
    """Passes on what a worker and its study say, and can change it, or say more in the worker's name."""

    def __init__(self, host: str, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.said: list[bytes] = []
        self.change: Callable[[bytes], bytes] = lambda content: content
        Thread(target=self._pass, args=(host, port), daemon=True).start()

    def _pass(self, host: str, port: int) -> None:
        guest = Connection(self._listener.accept()[0].detach())
        self.study = Connection(socket.create_connection((host, port)).detach())
        with suppress(EOFError, OSError), self._listener, guest, self.study:
            while True:
                for side in wait([guest, self.study]):
                    content = side.recv_bytes()  # type: ignore[union-attr]
                    if side is guest:
                        self.said.append(self.change(content))
                        self.study.send_bytes(self.said[-1])
                    else:
                        guest.send_bytes(content)


@pytest.mark.parametrize("how", ["unsigned", "of another key", "again", "cut short"])
def test_who_has_not_the_key_gets_nothing_and_what_is_not_signed_is_not_heard(how: str, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"

    def forged(between: Between, connection: Signed) -> None:
        """Say what somebody between the two could."""
        content = pickle.dumps((3, Trap(trap)))
        match how:
            case "unsigned":
                between.study.send_bytes(content)
            case "of another key":
                between.study.send_bytes(hmac.digest(b"another", content, "sha256") + content)
            case "again":
                between.study.send_bytes(between.said[-1])
            case _:
                between.change = lambda said: said[:-1]
                connection.send_bytes(content)

    launcher = Nobody()
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(few, 1024), most))
    backend = Pilots(Plain(), launcher, None)
    try:
        address = (launcher.host, launcher.port)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == most, "each worker takes one"
        assert launcher.host == "127.0.0.1"
        stranger = join({"host": launcher.host, "port": launcher.port, "key": "00" * 32})
        stranger.send("mine")
        with pytest.raises((EOFError, OSError)):
            stranger.recv_bytes()
        with socket.create_connection(address), socket.create_connection(address) as loud:
            loud.sendall(b"\x00\x00\x00\x04ping" * 3)
            said = b""
            with pytest.raises((ConnectionError, TimeoutError)):
                loud.settimeout(5)
                while part := loud.recv(4096):
                    said += part
                raise ConnectionError
            assert len(said) == 36, "a nonce, which is drawn anew for each"
            assert list(backend.listen(0)) == []
            between = Between(*address)
            connection = join({"host": "127.0.0.1", "port": between.port, "key": launcher.key.hex()})
            connection.send("mine")
            assert b"Plain" in connection.recv_bytes()
            connection.send((3, Ready()))
            assert heard(backend) == [(0, Ready())]
            forged(between, connection)
            assert heard(backend) == [(0, Lost("its pilot mine ended or is out of reach", False))]
            assert not trap.exists()
    finally:
        backend.close()
    with pytest.raises(OSError):
        socket.create_connection(address)


@needs_sshd
def test_workers_of_a_host_have_its_gpus_in_turn(hosts: Path) -> None:
    executor, steps = SSH(Seeing(), ["a"], workers=3), list[Step]()
    try:
        for trial in range(3):
            while not executor.has_room():
                steps.extend(executor.wait())
            executor.submit(Job(trial, {}, 0, 1))
        while not executor.idle():
            steps.extend(executor.wait())
    finally:
        executor.shutdown(graceful=False)
    assert sorted(step.metrics["gpu"] for step in steps if isinstance(step, Epoch)) == [4.0, 4.0, 5.0]


def test_a_machine_without_a_say_in_it_names_its_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == []
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0\necho 1\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert gpus() == ["0", "1"] and places(3, 1) == ["0", "1", "0"]
    assert places(1, 1) == [None] and places(2, 0) == [None, None], "which see all of them"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == [], "none is to be seen"


@needs_sshd
def test_ssh_conforms(hosts: Path) -> None:
    assert not complaints(conform("halving.executors.ssh:SSH", {"hosts": ["a", "b"]}))


@needs_sshd
def test_a_pilots_end_is_no_trials_fault_and_its_host_is_tried_again(
    hosts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halving.executors.ssh.AGAIN", 0.5)
    keys, draw = list[bytes](), secrets.token_bytes
    monkeypatch.setattr(secrets, "token_bytes", lambda size: (keys.append(draw(size)), keys[-1])[1])
    executor = SSH(Patient(tmp_path), ["a", "b"], retries=0)
    steps: list[Step] = []

    def until(happened: Callable[[], bool]) -> None:
        while not happened():
            steps.extend(executor.wait())

    def epochs(trial: int) -> int:
        return sum(isinstance(step, Epoch) and step.trial == trial for step in steps)

    try:
        assert executor.workers == 2
        executor.submit(Job(0, {}, 0, 1000))
        until(lambda: epochs(0) > 1)
        until(executor.has_room)
        executor.submit(Job(1, {}, 0, 1000))
        until(lambda: epochs(1) > 1)
        first = sorted(pilots(hosts))
        (key,) = (each.hex().encode() for each in keys if len(each) == 32)
        for seen in (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")):
            with suppress(OSError):
                assert key not in seen.read_bytes()
        os.kill(first[0], signal.SIGKILL)
        until(lambda: any(isinstance(step, Restarted) for step in steps))
        os.kill(first[1], signal.SIGTERM)  # as a machine does that is shut down
        until(lambda: sum(isinstance(step, Restarted) for step in steps) == 2)
        restarts = [step for step in steps if isinstance(step, Restarted)]
        assert {step.reason for step in restarts[1:]} == {"its worker had to stop"}
        assert "ended or is out of reach" in restarts[0].reason
        stopped = restarts[1].trial
        assert int((tmp_path / str(stopped)).read_text()) == epochs(stopped), "it left a checkpoint, and lost no epoch"
        told = [epochs(0), epochs(1)]
        until(lambda: epochs(0) > told[0] and epochs(1) > told[1])
        assert len(pilots(hosts)) == 2 and not {*first} & pilots(hosts)
    finally:
        executor.shutdown(graceful=False)
    assert nobody_left(hosts)


@needs_sshd
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hosts": ["nobody"]}, "on nobody no worker could start: .*Connection refused"),
        ({"hosts": ["a"], "python": "/no/python"}, "on a no worker could start: .*/no/python"),
        ({"hosts": ["a"], "address": "192.0.2.1"}, "executor.address=192.0.2.1: this machine cannot listen there"),
        ({"hosts": ["-oProxyCommand=touch x"]}, "executor.hosts=.*: give the names of machines"),
        ({"hosts": []}, "executor.hosts=.*: give the names of machines"),
        ({"hosts": "a"}, "executor.hosts=a: give the names of machines"),
        ({"hosts": ["a"], "checkpoints": "here"}, "executor.checkpoints=here: give shared"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    hosts: Path, settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halving.executors.ssh.secrets.token_hex", lambda n: f"{os.getpid()}-{n}")
    with pytest.raises(UserError, match=message):
        executor = SSH(Plain(), **settings)
        try:
            executor.submit(Job(0, {}, 0, 1))
            while True:
                list(executor.wait())
        finally:
            executor.shutdown(graceful=False)
    assert not [*Path("/tmp").glob(f"halving-{os.getpid()}-*")]


@needs_sshd
def test_checkpoints_are_carried_and_what_a_function_needs_comes_along(hosts: Path, tmp_path: Path) -> None:
    def ssh(objective: Trainings) -> SSH:
        return SSH(objective, ["a"], workers=2, checkpoints="carried", address="127.0.0.1")

    before = {*hosts.glob("halving-*")}
    alone = tuned(leaving, tmp_path / "alone", Serial)
    assert sorted(came_to(tuned(leaving, tmp_path / "carried", ssh))) == sorted(came_to(alone))
    assert left(tmp_path / "carried") == left(tmp_path / "alone")
    assert nobody_left(hosts) and not {*hosts.glob("halving-*")} - before


@needs_sshd
def test_a_study_by_ssh_that_is_killed_leaves_nobody_and_decides_as_alone(
    hosts: Path, fork: Any, tmp_path: Path
) -> None:
    ssh, alone = tmp_path / "ssh", tmp_path / "alone"
    typed = ("executor=ssh", "executor.hosts=[a,b]", "tracker=csv")
    study = fork.begin(*SMALL, *typed, "r_max=9", f"hydra.run.dir={ssh}")
    deadline = time.monotonic() + 180
    while not ((journal := ssh / "journal.jsonl").exists() and journal.read_text().count('"finished"') > 2):
        assert time.monotonic() < deadline and study.ended(True) is None, study.communicate(0.0)
        time.sleep(0.02)
    study.send_signal(signal.SIGKILL)
    assert nobody_left(hosts)
    refused = fork(f"resume={ssh}")
    assert refused.returncode == 1 and "executor.hosts: a file, and nobody at this command line" in refused.stderr
    ended = fork(f"resume={ssh}", "executor.hosts=[a,b]")
    assert ended.returncode == 0, ended.stderr
    assert fork(*SMALL, "r_max=9", "tracker=csv", f"hydra.run.dir={alone}").returncode == 0
    assert rows(ssh) == rows(alone) and len(rows(ssh)) > 4
    assert nobody_left(hosts)


@pytest.mark.slow
def test_a_cut_link_costs_its_trial_no_retry_and_the_host_works_again_once_it_has_healed(
    repo: Path, tmp_path: Path
) -> None:
    run_dir, slowly = tmp_path / "run", tmp_path / "slowly"
    slowly.touch()
    try:
        network = Network()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces can be made here: {error}")
    (tmp_path / "ssh").write_text(  # there is no sshd in any of them, and what is tested is the pilots' own connection
        f"""#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nexec {shlex.join(network.inside(0))[:-1]}$2 sh -c "$3"\n"""
    )
    (tmp_path / "ssh").chmod(0o755)
    network.env |= {
        "SLOWLY": str(slowly),
        "PYTHONPATH": os.pathsep.join([str(repo / "tests"), str(repo / "src")]),
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    }
    settings = {"hosts": ["2", "3"], "address": "10.77.0.1", "retries": 0}
    hurried = (
        "import sys, pathlib; from halving.executors import pilot, ssh; from faults import anywhere; "
        "pilot.SILENCE, ssh.AGAIN = 6, 1; "
        f"anywhere.main(pathlib.Path(sys.argv[1]), 'short', 'halving.executors.ssh:SSH', {settings})"
    )
    try:
        for number in (1, 2, 3):
            network.add(number)
        study = network.begin(1, [sys.executable, "-c", hurried, str(run_dir)])

        def wait(happened: Callable[[str], bool]) -> None:
            deadline = time.monotonic() + 300
            while not (run_dir / FILE).exists() or not happened((run_dir / FILE).read_text()):
                assert study.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)

        wait(lambda journal: '"node":2.0' in journal and '"node":3.0' in journal)
        network.link(3, "down")
        wait(lambda journal: '"type":"restarted"' in journal)
        cut = (run_dir / FILE).stat().st_size
        network.link(3, "up")
        wait(lambda journal: '"node":3.0' in journal[cut:])
        slowly.unlink()
        assert study.wait(300) == 0
    finally:
        network.close()
    events = read(run_dir)
    assert [event.reason for event, _ in events if isinstance(event, Restarted)] == [
        "its pilot 1 on 3 ended or is out of reach"
    ]
    history = replay(events)
    assert len(history.trials) == 100 and not any(math.isinf(e.error) for _, e in history.finished)
    told = [(trial.trial, e.until, epoch.epoch) for trial in history.trials.values() for e, epoch in trial.epochs]
    assert len(told) == len({*told}) == sum(max(e.resource for e in t.evaluations) for t in history.trials.values())
