"""Workers on a real Ray cluster of several nodes on this machine; skipped, with the reason, where there is no Ray."""

import csv
import json
import math
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from faults import anywhere
from faults.network import Network
from faults.objectives import Plain
from hydra import compose, initialize_config_dir
from test_carried import came_to, leaving, left, tuned
from test_conformance import complaints

from halving.app.objective import ConfiguredObjective, Elsewhere
from halving.config import trust
from halving.config.polite import register
from halving.config.request import Request
from halving.conformance import conform
from halving.errors import UserError
from halving.executors import Serial
from halving.executors.ray import Ray
from halving.journal import FILE, read, replay
from halving.training.own import Trainings
from halving.trial import Epoch, Finished, Job, Restarted, Step

_STORE = 80_000_000


needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'halving[ray]'")


def paths(repo: Path) -> str:
    return os.pathsep.join([str(repo / "tests"), str(repo / "src"), os.environ.get("PYTHONPATH", "")])


def studying(repo: Path, run_dir: Path, scheduler: str, **settings: Any) -> list[str]:
    """Return the command of a study on Ray."""
    words = [repo / "tests/faults/anywhere.py", run_dir, scheduler, "halving.executors.ray:Ray", json.dumps(settings)]
    return [sys.executable, *map(str, words)]


@pytest.fixture(scope="module")
def cluster(repo: Path) -> Iterator[Any]:
    """A cluster whose head has no room for workers; who has not its key is not admitted."""
    # Ray reads these when it is first imported, and keeps the key for as long as the process lives.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    from ray.cluster_utils import Cluster  # pyright: ignore

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _STORE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths(repo))
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture
def node(cluster: Any) -> Iterator[Callable[[], Any]]:
    """`node()` joins one with room for one worker, for as long as the test lasts."""
    joined: list[Any] = []

    def node(room: int = 1) -> Any:
        joined.append(cluster.add_node(num_cpus=room, object_store_memory=_STORE))
        return joined[-1]

    yield node
    for each in joined:
        if each in cluster.worker_nodes:
            cluster.remove_node(each)


@needs_ray
def test_ray_conforms(cluster: Any, node: Callable[..., Any]) -> None:
    node(2)
    assert not complaints(conform("halving.executors.ray:Ray", {"address": cluster.address}))


@needs_ray
def test_a_node_that_joins_gets_work_and_the_death_of_one_is_no_trials_fault(
    cluster: Any, node: Callable[[], Any]
) -> None:
    first = node()
    executor = Ray(Plain(0.05), address=cluster.address, retries=0)
    steps: list[Step] = []
    places: dict[int, str | None] = {}

    def until(happened: Callable[[], bool]) -> None:
        while not happened():
            for step in executor.wait():
                steps.append(step)
                if isinstance(step, Finished):
                    places[step.outcome.trial] = step.checkpoint

    try:
        assert executor.workers == 1
        executor.submit(Job(0, {}, 0, 400))
        until(lambda: bool(steps))
        assert not executor.has_room()
        second = node()
        until(executor.has_room)
        executor.submit(Job(1, {}, 0, 40))
        until(lambda: any(isinstance(step, Epoch) and step.trial == 1 for step in steps))
        cluster.remove_node(first, allow_graceful=False)
        until(executor.idle)
        executor.submit(Job(2, {}, 0, 1))
        until(executor.idle)
    finally:
        executor.shutdown(graceful=False)
    assert second in cluster.worker_nodes and places[0] == places[1] == places[2], "the same worker, of the second"
    restarts = [step for step in steps if isinstance(step, Restarted)]
    assert restarts == [Restarted(0, 0, "its node died or is out of reach")]
    epochs = [step.epoch for step in steps if isinstance(step, Epoch) and step.trial == 0]
    assert epochs[-400:] == list(range(1, 401)) and len(epochs) < 2 * 400


@needs_ray
def test_what_cannot_be_imported_there_ends_the_study_in_a_line(
    cluster: Any, node: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node()
    (tmp_path / "only_here.py").write_text("class Objective:\n    def __call__(self, jobs): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    executor = Ray(__import__("only_here").Objective(), address=cluster.address)
    try:
        executor.submit(Job(0, {}, 0, 1))
        with pytest.raises(
            UserError, match=r"could not start: .*'only_here'; what it runs must be importable on every"
        ):
            while True:
                list(executor.wait())
    finally:
        executor.shutdown(graceful=False)


@needs_ray
def test_checkpoints_are_carried_from_where_the_run_directory_is_not(
    cluster: Any, node: Callable[..., Any], tmp_path: Path
) -> None:
    node(2)

    def ray(objective: Trainings) -> Ray:
        return Ray(objective, address=cluster.address, checkpoints="carried")

    alone = tuned(leaving, tmp_path / "alone", Serial)
    assert sorted(came_to(tuned(leaving, tmp_path / "carried", ray))) == sorted(came_to(alone))
    assert left(tmp_path / "carried") == left(tmp_path / "alone")


@needs_ray
def test_a_study_on_ray_decides_as_in_one_process_and_goes_on_elsewhere(fork: Run, tmp_path: Path) -> None:
    """On a cluster of its own, which ends with it."""
    small = (
        "model=softmax",
        "data.train_samples=100",
        "r_max=3",
        "tracker=none",
        "executor.threads=1",
        "scheduler=sha",
    )

    def rows(run_dir: Path) -> list[dict[str, str]]:
        with (run_dir / "results.csv").open(newline="") as file:
            return sorted(({**row, "seconds": ""} for row in csv.DictReader(file)), key=lambda row: sorted(row.items()))

    ray, alone = tmp_path / "ray", tmp_path / "alone"
    begun = fork(*small, "executor=ray", "budget.evaluations=3", f"hydra.run.dir={ray}")
    assert begun.returncode == 0, begun.stderr
    ended = fork(f"resume={ray}", "executor=serial", "budget.evaluations=null")
    assert ended.returncode == 0, ended.stderr
    assert fork(*small, f"hydra.run.dir={alone}").returncode == 0
    assert rows(ray) == rows(alone) and len(rows(ray)) == 4
    left = subprocess.run(["pgrep", "-f", str(ray)], capture_output=True, text=True, check=False).stdout
    assert not left


@pytest.fixture
def network() -> Iterator[Network]:
    try:
        network = Network()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces can be made here: {error}")
    yield network
    network.close()


@needs_ray
@pytest.mark.slow
def test_a_study_outlives_a_nodes_death_a_cut_link_and_a_restart_of_the_cluster(
    network: Network, repo: Path, tmp_path: Path
) -> None:
    run_dir, slowly = tmp_path / "run", tmp_path / "slowly"
    run_dir.mkdir()
    slowly.touch()
    network.env |= {
        "SLOWLY": str(slowly),
        "PYTHONPATH": paths(repo),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "4000",
        "RAY_health_check_failure_threshold": "4",
    }

    there = set[int]()

    def join(number: int, *words: str) -> None:
        """Begin a node at 10.77.0.<number>, the head where it is 1."""
        if number not in there:
            network.add(number)
            there.add(number)
        where = ["--head", "--port=6379", "--include-dashboard=false"] if number == 1 else ["--address=10.77.0.1:6379"]
        options = ["--block", f"--node-ip-address=10.77.0.{number}", f"--object-store-memory={_STORE}"]
        options += ["--include-log-monitor=false", *where, *words]  # which nobody reads
        network.begin(number, [sys.executable, "-m", "ray.scripts.scripts", "start", *options])

    join(1, "--num-cpus=0")
    reach = "import socket, sys; sys.exit(socket.socket().connect_ex(('10.77.0.1', 6379)))"
    while network.begin(1, [sys.executable, "-c", reach]).wait():
        time.sleep(0.5)
    join(2, "--num-cpus=1")
    study = network.begin(1, studying(repo, run_dir, "asha", address="10.77.0.1:6379", retries=0))

    def wait(happened: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + 400
        while not (run_dir / FILE).exists() or not happened((run_dir / FILE).read_text()):
            assert study.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)

    wait(lambda journal: '"node":2.0' in journal)
    join(3, "--num-cpus=1")  # one after the other: they choose names in one directory
    wait(lambda journal: '"node":3.0' in journal)
    network.kill(2)
    join(4, "--num-cpus=1")
    wait(lambda journal: '"node":4.0' in journal and '"type":"restarted"' in journal)
    network.link(3, "down")
    wait(lambda journal: journal.count('"type":"restarted"') == 2)
    network.link(3, "up")
    slowly.unlink()
    assert study.wait(300) == 0
    events = read(run_dir)
    reasons = [event.reason for event, _ in events if isinstance(event, Restarted)]
    assert reasons == ["its node died or is out of reach"] * 2
    history = replay(events)
    assert len(history.trials) == 200 and not any(math.isinf(e.error) for _, e in history.finished)
    told = [(trial.trial, e.until, epoch.epoch) for trial in history.trials.values() for e, epoch in trial.epochs]
    assert len(told) == len({*told}) == sum(max(e.resource for e in t.evaluations) for t in history.trials.values())
    again = anywhere.tuner(tmp_path / "again", "asha", None, Serial(Plain()))
    again.rederive(events)  # a legal history
    assert again.history.incumbent is not None

    run_dir = tmp_path / "killed"
    slowly.touch()
    command = studying(repo, run_dir, "sha", address="10.77.0.1:6379", retries=0)
    study = network.begin(1, command)
    wait(lambda journal: journal.count('"type":"finished"') == 2)
    study.kill()
    for number in (1, 3, 4):
        network.kill(number)
    slowly.unlink()
    join(1, "--num-cpus=0")
    while network.begin(1, [sys.executable, "-c", reach]).wait():
        time.sleep(0.5)
    join(3, "--num-cpus=1")
    assert network.begin(1, command).wait(300) == 0
    assert anywhere.decided(replay(read(run_dir))) == anywhere.alone(tmp_path / "alone", "sha")
    deadline = time.monotonic() + 60
    while actors := [pid for pid in network.pids(3) if b"_Actor" in (Path("/proc") / pid / "cmdline").read_bytes()]:
        assert time.monotonic() < deadline, actors
        time.sleep(0.5)


def test_device_and_data_are_found_out_where_the_work_is_done(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(repo / "conf")
    with initialize_config_dir(str(repo / "conf"), version_base="1.3"):
        cfg = compose("config", ["model=mlp", "data=airfoil", f"data_dir={tmp_path}/here", "device=cpu"])
    (tmp_path / "here").mkdir()
    for damaged in (tmp_path, tmp_path / "here"):
        (damaged / "airfoil_self_noise.dat").write_text("neither")
    monkeypatch.setenv("HALVING_DATA", str(tmp_path))

    def cause(device: str, moves: bool) -> str:
        executor = Serial(Elsewhere(ConfiguredObjective(Request(cfg), tmp_path, 1), device, moves))
        executor.submit(Job(0, {}, 0, 1))
        (step,) = executor.wait()
        assert isinstance(step, Finished)
        return step.cause

    assert str(tmp_path / "airfoil_self_noise.dat") in cause("auto", True)
    assert "here/airfoil_self_noise.dat" in cause("auto", False)
    assert "device=cuda:7" in cause("cuda:7", True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_cpus": -1}, "executor.num_cpus=-1: must be a number of at least 0"),
        ({"resources": {"big": "x"}}, "executor.resources.big=x"),
        ({"workers": 0}, "executor.workers=0"),
        ({}, "Ray is not installed: pip install"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=message):
        Ray(Plain(), **settings)


@needs_ray
@pytest.mark.parametrize(
    ("address", "stale"),
    [
        ("127.0.0.1:1", ""),
        ("ray://127.0.0.1:1", ""),
        ("127.0.0.1:99999", ""),
        ("auto", "RAY_ADDRESS"),
        ("auto", "ray_current_cluster"),
    ],
)
def test_a_cluster_that_is_not_there_is_said_at_once(
    address: str, stale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    if stale == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    elif stale:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / stale).write_text("127.0.0.1:1")
    named = f"refused at 127.0.0.1:1, which .*{stale} names" if stale else ""
    began = time.monotonic()
    with pytest.raises(UserError, match=f"executor.address={address}: no Ray cluster can be joined: .*{named}"):
        Ray(Plain(), address=address)
    assert time.monotonic() - began < 30, "Ray's own attempts take minutes"


def test_a_file_cannot_say_which_cluster_to_join(fork: Run, tmp_path: Path) -> None:
    (tmp_path / "conf" / "executor").mkdir(parents=True)
    for name, line in (("theirs", "address: 192.0.2.1:6379"), ("hook", "runtime_env: {py_executable: ./any}")):
        file = tmp_path / "conf" / "executor" / f"{name}.yaml"
        file.write_text(f"defaults: [ray, _self_]\n{line}\n")
        refused = fork("--config-dir", "conf", f"executor={name}", "model=softmax", "tracker=none", cwd=tmp_path)
        assert refused.returncode == 1 and f"executor.{line[:7]}" in refused.stderr, refused.stderr
        assert "a file, and nobody at this command line, says" in refused.stderr and "[cluster]" in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("typed", "passes"),
    [
        (("executor.address='there:1'", "executor.runtime_env={pip:[a]}"), True),
        (("trusted_packages=[cluster]",), True),
        (("executor.address=auto", "executor.runtime_env={pip:[a]}"), False),
        (("executor.address=there:1", "executor.runtime_env.pip=[a]"), False),
        (("executor.address=there:1", "executor.runtime_env={}"), False),
        (("trusted_packages=[mine]",), False),
    ],
)
def test_a_cluster_counts_as_typed(typed: tuple[str, ...], passes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "resume=theirs", *typed])
    trust.remember()
    try:
        with (
            nullcontext() if passes else pytest.raises(UserError, match=r"executor\.(address|runtime_env): a file, and")
        ):
            trust.check_cluster({"address": "there:1", "runtime_env": {"pip": ["a"]}})
    finally:
        monkeypatch.undo()
        trust.remember()
