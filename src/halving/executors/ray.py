"""Workers as Ray's actors: one in each place that a cluster has, and more when it grows."""

import itertools
import logging
import math
import os
import pickle
import secrets
import signal
import socket
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from halving.environment import cores, wait_briefly
from halving.errors import StudyError, UserError, last_line, real, whole
from halving.executors import tree
from halving.executors.base import Objective
from halving.executors.carried import Carrier, Carrying, Keeping
from halving.executors.pool import Backend, Batching, Pool, Slot, limits
from halving.executors.work import Lost, Message, Raised, Ready, Stopped, Unstarted
from halving.trial import Job

log = logging.getLogger(__name__)

_BEAT = 1.0  # seconds after which the cluster is looked at again
_REACH = 10.0  # seconds for a cluster to answer
_PARTING = 5.0  # seconds for workers to leave nothing behind: on a busy node a call takes its time
_STORE = 80_000_000  # bytes of Ray's own on a machine that is not part of a cluster: nothing large goes there


class Ray(Pool):
    """Runs jobs in actors of a Ray cluster: as many as there is room for, or at most `workers`.

    Ray places workers, and nothing else: what is run again is the pool's to say. Each gets `num_cpus`, `num_gpus`, of
    which a fraction lets several share one, and custom `resources`. `address` is a cluster's, or "auto"; None begins
    one on this machine, which ends with the study and admits nobody without its key. `runtime_env` is Ray's. Nodes that
    join get work, and the death of one costs its trials no retry. `checkpoints` are on a path that all nodes share, or
    are carried to this machine with what workers tell; None finds out for each worker.

    Raises UserError without Ray, for a cluster that cannot be joined, and for numbers out of range.
    """

    elsewhere = True

    def __init__(
        self,
        objective: Objective,
        address: str | None = None,
        workers: int | None = None,
        num_cpus: float = 1,
        num_gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        dashboard: bool = False,
        checkpoints: str | None = None,
        retries: int = 2,
        trial_timeout: float | None = None,
        batch: int = 1,
        patience: float = 0.0,
    ) -> None:
        if checkpoints not in (None, "shared", "carried"):
            raise UserError(f"executor.checkpoints={checkpoints}: give shared, carried, or null to find out")
        most = None if workers is None else whole("executor.workers", workers)
        within, batching = limits(retries, trial_timeout), Batching.of(objective, batch, patience)
        asked = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            **{f"resources.{k}": v for k, v in (resources or {}).items()},
        }
        for name, amount in asked.items():
            real(f"executor.{name}", amount, lambda x: 0 <= x < math.inf, "must be a number of at least 0")
        wanted = {"CPU": num_cpus, "GPU": num_gpus, **(resources or {})}
        ray, mine = _joined(address, most, num_cpus, dict(runtime_env or {}), dashboard)
        actors = _Actors(ray, mine, objective, most, {name: amount for name, amount in wanted.items() if amount})
        try:
            backend: Backend = actors
            if checkpoints != "shared" and isinstance(objective, Keeping):
                backend = Carrying(actors, objective.run_dir, always=checkpoints == "carried")
            super().__init__(backend, *within, batching=batching)
        except BaseException:
            actors.close()
            raise
        self.workers = most or max(1, actors.places())


class _Actors:
    """A slot begins when its actor answers, and ends with it."""

    def __init__(
        self, ray: Any, mine: bool, objective: Objective, most: int | None, wanted: Mapping[str, float]
    ) -> None:
        self._ray, self._mine, self._most, self._wanted = ray, mine, most, wanted
        # By value, so that it is the actor that imports what it needs, and can say what it lacks.
        self._objective = ray.put(ray.cloudpickle.dumps(objective))
        others = {name: amount for name, amount in wanted.items() if name not in ("CPU", "GPU")}
        self._class = ray.remote(
            num_cpus=wanted.get("CPU", 0),
            num_gpus=wanted.get("GPU", 0),
            resources=others,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"control": 1},
        )(_Actor)
        self._numbers = itertools.count()
        self._actors: dict[Slot, Any] = {}
        self._nodes: dict[Slot, str] = {}
        self._jobs: dict[Slot, tuple[Job, ...]] = {}
        self._waited: dict[Any, Slot] = {}  # by what is awaited: an actor's first answer, or what comes of its job
        self._unable = 0
        self._waits = False  # for a node that has what a worker wants
        self._looked = -math.inf

    def listen(self, timeout: float | None) -> Iterator[tuple[Slot, Message]]:
        ray = self._ray
        try:
            if time.monotonic() - self._looked >= _BEAT:
                self._grow()
            patience = _BEAT if timeout is None else min(_BEAT, timeout)
            if not self._waited:
                time.sleep(patience)
                return
            heard, rest = ray.wait(list(self._waited), num_returns=1, timeout=patience)
            if heard and rest:
                heard += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        except (ConnectionError, ray.exceptions.RaySystemError) as error:
            raise StudyError(
                f"executor=ray: the cluster is gone ({last_line(error)}); resume the study when it is there again"
            ) from error
        for each in heard:
            if each in self._waited:
                yield from self._heard(each, self._waited[each])

    def send(self, slot: Slot, jobs: Sequence[Job]) -> None:
        self._jobs[slot] = tuple(jobs)
        self._waited[self._actors[slot].run.options(num_returns="streaming").remote(self._jobs[slot])] = slot

    def ask_to_stop(self, slot: Slot) -> None:
        self._actors[slot].stop.options(concurrency_group="control").remote()

    def kill(self, slot: Slot) -> None:
        self._end([slot])

    def close(self) -> None:
        self._end(list(self._actors))
        if self._mine:
            self._ray.shutdown()

    def places(self) -> int:
        """Return how many workers the cluster has room for, if it does nothing else."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(
            min((int(node.get(name, 0) / amount + 1e-9) for name, amount in self._wanted.items()), default=1)
            for node in nodes
        )

    def _end(self, slots: Sequence[Slot]) -> None:
        """Kill actors, after those that still hear anything have ended what their trials started."""
        ray, actors = self._ray, [self._actors.pop(slot) for slot in slots]
        self._waited = {each: slot for each, slot in self._waited.items() if slot not in slots}
        if actors:
            ends = [actor.end.options(concurrency_group="control").remote() for actor in actors]
            ray.wait(ends, num_returns=len(ends), timeout=_PARTING)
        for actor in actors:
            ray.kill(actor)
        for slot in slots:
            self._nodes.pop(slot, None)
        self._looked = -math.inf  # there is a place for another

    def _grow(self) -> None:
        self._looked = time.monotonic()
        places = self.places()
        wanted = (places if self._most is None else self._most) - self._unable
        if (waits := not places and not self._actors) and not self._waits:
            log.warning("executor=ray: no node has %s; the study waits for one", dict(self._wanted))
        self._waits = waits
        while len(self._actors) < wanted:
            slot = next(self._numbers)
            self._actors[slot] = actor = self._class.remote(self._objective)
            self._waited[actor.ready.remote()] = slot

    def _heard(self, each: Any, slot: Slot) -> Iterator[tuple[Slot, Message]]:
        ray = self._ray
        try:
            if slot not in self._nodes:
                self._nodes[slot], cause = ray.get(each)
                del self._waited[each]
                if cause:
                    yield slot, self._unstarted(slot, cause)
                else:
                    yield slot, Ready()
                return
            message: Message = ray.get(next(each))
        except StopIteration:
            del self._waited[each]
            return
        except ray.exceptions.RayActorError as error:
            yield slot, self._lost(slot, error)
            return
        except ray.exceptions.RayError as error:  # what it measured cannot be sent
            del self._waited[each]
            job = self._jobs[slot][0]
            yield slot, Raised(job.trial, job.until, f"{type(error).__name__}: {last_line(error)}", f"\n{error}")
            return
        if isinstance(message, Lost | Stopped):
            self.kill(slot)
        yield slot, message

    def _lost(self, slot: Slot, error: Exception) -> Lost | Unstarted:
        node = self._nodes.get(slot)
        self.kill(slot)  # what is only out of reach still works, and is not to come back
        if node is None and "creation" in str(error):
            return self._unstarted(slot, last_line(error))
        gone = node is None or not any(each["NodeID"] == node and each["Alive"] for each in self._ray.nodes())
        gone = gone or isinstance(error, self._ray.exceptions.ActorUnavailableError)
        return Lost("its node died or is out of reach" if gone else f"its worker died: {last_line(error)}", not gone)

    def _unstarted(self, slot: Slot, cause: str) -> Unstarted:
        if slot in self._actors:
            self.kill(slot)
        self._unable += 1
        return Unstarted(
            f"executor=ray: a worker could not start: {cause}; what it runs must be importable on every node: install "
            "it there, or give executor.runtime_env"
        )


class _Actor:
    """A worker. It has a thread besides, which hears that it is to stop."""

    def __init__(self, objective: bytes) -> None:
        wait_briefly()  # before torch is imported
        self._mark = secrets.token_hex(8)
        tree.brand(self._mark)
        self._asked, self._worker, self._cause = False, None, ""
        try:
            self._worker = Carrier(pickle.loads(objective))
        except Exception as error:
            self._cause = f"{type(error).__name__}: {error}"

    def ready(self) -> tuple[str, str]:
        """Return where it is, and why it cannot work, if so."""
        return import_module("ray").get_runtime_context().get_node_id(), self._cause

    def stop(self) -> None:
        self._asked = True

    def run(self, jobs: Sequence[Job]) -> Generator[Any]:
        assert self._worker is not None
        yield from self._worker.work(jobs, lambda: self._asked)

    def end(self) -> None:
        """Leave nothing behind."""
        if self._worker is not None:
            self._worker.close()
        tree.end_own(self._mark)


def _joined(
    address: str | None, workers: int | None, num_cpus: float, runtime_env: dict[str, Any], dashboard: bool
) -> tuple[Any, bool]:
    """Return Ray, in a cluster, and whether it was joined or begun here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    # A paragraph for every worker that ends, though logs are not asked for; of those that matter the pool tells.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
    if address is None:  # a key for whoever has this environment; Ray's own would lie in a file
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise UserError("executor=ray: Ray is not installed: pip install 'halving[ray]'") from error
    if ray.is_initialized():
        return ray, False
    _check_reach(address or "")
    own: dict[str, Any] = {
        "include_dashboard": dashboard,
        "num_cpus": max(cores(), math.ceil((workers or 0) * num_cpus)),
        "object_store_memory": _STORE,
        "_node_ip_address": "127.0.0.1",
    }
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            runtime_env=runtime_env,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **({} if address else own),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"executor.address={address}: no Ray cluster can be joined: {last_line(error)}") from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)  # which is the study's to answer
    return ray, True


def _check_reach(address: str) -> None:
    """Raise UserError where nobody listens at an address: Ray itself would try for minutes, and hear no signal."""
    at, where = address, ""
    if address == "auto":  # which of these may name a cluster that has ended
        current = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
        at, where = os.environ.get("RAY_ADDRESS", ""), "RAY_ADDRESS"
        with suppress(OSError):
            at, where = (at, where) if at else (current.read_text().strip(), str(current))
    host, _, port = at.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACH).close()
        except (OSError, OverflowError) as error:
            told = f"{getattr(error, 'strerror', None) or error}{where and f' at {at}, which {where} names'}"
            raise UserError(f"executor.address={address}: no Ray cluster can be joined: {told}") from error
