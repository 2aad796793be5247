"""Several jobs at a time, each in a process of its own."""

import gc
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import (
    current_process,
    get_all_start_methods,
    get_context,
    get_start_method,
    parent_process,
    set_start_method,
)
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pickle import PicklingError
from secrets import token_hex

from halving.environment import wait_briefly
from halving.errors import UserError, whole
from halving.executors import signals, tree
from halving.executors.base import Objective
from halving.executors.carried import Carrier
from halving.executors.pool import Batching, Pool, Slot, limits
from halving.executors.work import Lost, Message, Ready, Stopped, Unstarted, raised
from halving.trial import Job

_WORKERS = 1024  # many more are a slip, which takes all of the machine's memory
START = 120.0  # seconds that a worker may take for its imports
_PARTING = 10.0  # seconds that one may take for its end


class Process(Pool):
    """Runs jobs in `workers` spawned processes, one pipe each, all waited on together.

    Nothing is shared between workers, so that the death of one, at any instruction, takes no lock with it: that is
    what a pool on a shared queue cannot promise. A trial goes back to the worker that had it last, where its state may
    still be in memory. A job whose worker dies or runs out of memory is given, up to `retries` times, to a new worker;
    one that takes longer than `trial_timeout` seconds is killed and fails. Workers end within a second after their
    parent, and whatever their trials started ends with them. `devices` are the GPUs to see, one name per worker in
    turn. Each worker has up to `batch` trials that are alike at a time, which wait `patience` seconds for more.

    Raises UserError for counts and times out of range.
    """

    def __init__(
        self,
        objective: Objective,
        workers: int,
        retries: int = 2,
        trial_timeout: float | None = None,
        devices: Sequence[str] = (),
        batch: int = 1,
        patience: float = 0.0,
    ) -> None:
        self.workers = whole("executor.workers", workers, most=_WORKERS)
        within, batching = limits(retries, trial_timeout), Batching.of(objective, batch, patience)
        wait_briefly()  # several workers' threads share the cores
        places = [devices[i % len(devices)] if devices else None for i in range(self.workers)]
        super().__init__(Processes(objective, places), *within, START, batching)


@dataclass
class _Worker:
    """A process on a device.

    `mark` tells its process tree, `ready` whether it has imported what it needs, and `word` is its last, if it has one.
    """

    process: BaseProcess
    pipe: Connection
    device: str | None
    mark: str
    ready: bool = False
    word: Lost | Unstarted | None = None


class Processes:
    """Spawned processes, each on one of `devices`. In the place of a dead one another begins with its first jobs.

    `listen` returns early when `bell` rings. An objective that comes to Unstarted says why a worker cannot work.
    """

    def __init__(
        self, objective: Objective | Unstarted, devices: Sequence[str | None], bell: Connection | None = None
    ) -> None:
        self._objective, self._bell = objective, [] if bell is None else [bell]
        self._numbers = itertools.count()
        self._workers: dict[Slot, _Worker] = {}
        self._vacant: dict[Slot, str | None] = {}
        for device in devices:
            self._workers[next(self._numbers)] = self._spawn(device)
        self._new = list(self._workers)

    def listen(self, timeout: float | None) -> Iterator[tuple[Slot, Message]]:
        while self._new:
            yield self._new.pop(0), Ready()
        workers = dict(self._workers)
        ends = [end for each in workers.values() for end in (each.pipe, each.process.sentinel)]
        # What a dead worker had started may hold its pipes open, so that its death is not heard but must be looked for.
        heard = wait([*ends, *self._bell], 1.0 if timeout is None else min(1.0, timeout))
        for slot, worker in workers.items():
            if worker.pipe in heard or not worker.process.is_alive():
                yield from self._said(slot, worker)

    def send(self, slot: Slot, jobs: Sequence[Job]) -> None:
        if slot in self._vacant:
            self._workers[slot] = self._spawn(self._vacant.pop(slot))
        self._say(slot, tuple(jobs))

    def ask_to_stop(self, slot: Slot) -> None:
        self._say(slot, Stopped())

    def kill(self, slot: Slot) -> None:
        worker = self._workers.pop(slot)
        _end([worker])
        self._new.append(self._vacate(worker.device))

    def close(self) -> None:
        _end(self._workers.values())
        self._workers.clear()

    def _said(self, slot: Slot, worker: _Worker) -> Iterator[tuple[Slot, Message]]:
        """Give what a worker has said, and its end, if that was all."""
        with suppress(EOFError, OSError):
            while True:
                alive = worker.process.is_alive()  # asked first: nothing is said after that
                if not worker.pipe.poll():
                    if alive:
                        return
                    break
                match worker.pipe.recv():
                    case Ready():
                        worker.ready = True
                    case (Lost() | Unstarted()) as word:
                        worker.word = word
                    case message:
                        yield slot, message
        if worker.process.is_alive():
            worker.process.join(_PARTING)
        del self._workers[slot]
        _end([worker])
        code = worker.process.exitcode
        if isinstance(worker.word, Unstarted):
            yield slot, worker.word
        elif not worker.ready and (code or 0) > 0:
            told = f"executor=process: a worker could not start ({_epitaph(code)}; it says above why); what it runs"
            told += ' must be importable, and a script be guarded by if __name__ == "__main__":'
            yield slot, Unstarted(told)
        else:
            yield self._vacate(worker.device), Ready()  # before it is known whose job was lost: a new worker's memory
            yield slot, worker.word or Lost(_epitaph(code))

    def _vacate(self, device: str | None) -> Slot:
        slot = next(self._numbers)
        self._vacant[slot] = device
        return slot

    def _say(self, slot: Slot, what: object) -> None:
        with suppress(OSError):  # it is dead, which is heard next
            self._workers[slot].pipe.send(what)

    def _spawn(self, device: str | None) -> _Worker:
        if get_start_method(allow_none=True) not in (None, *get_all_start_methods()):
            set_start_method("spawn", force=True)  # of joblib's own, a worker would be told, and not know it
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        mark = token_hex(8)
        if getattr(current_process(), "_inheriting", False):  # as multiprocessing itself asks, at more length
            raise SystemExit(
                'a worker imports this script, which starts workers: guard it by if __name__ == "__main__":'
            )
        process = context.Process(target=_work, args=(theirs, _Beginning(mark), self._objective, device))
        try:
            with signals.held_back():
                process.start()
        except (PicklingError, AttributeError, TypeError) as error:  # as Python's versions have it
            raise UserError(
                f"what is evaluated cannot be sent to another process ({error}): let it be a function at the top level "
                "of a module"
            ) from error
        theirs.close()
        return _Worker(process, ours, device, mark)


def _end(workers: Iterable[_Worker]) -> None:
    """Kill workers and what their trials started."""
    workers = list(workers)
    tree.end({worker.process.pid: worker.mark for worker in workers if worker.process.pid is not None})
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join()
        worker.pipe.close()


def _epitaph(code: int | None) -> str:
    if code is not None and code < 0:
        killed = " (as the system does when memory runs out)" if -code == signal.SIGKILL else ""
        return f"its worker was killed by {signal.Signals(-code).name}{killed}"
    return f"its worker ended with status {code}"


class _Beginning:
    """Sets a worker apart when it is unpickled: before the objective, whose imports may take long."""

    def __init__(self, mark: str) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[[str], str], tuple[str]]:
        return _begin, (self._mark,)


def _begin(mark: str) -> str:
    gc.disable()  # until all is imported that the objective takes
    tree.lead(mark)
    signals.ignore()  # the parent decides
    return mark


def _work(pipe: Connection, mark: str, objective: Objective | Unstarted, device: str | None) -> None:
    """Be a worker: work on the groups of jobs that come through the pipe, until it says stop."""
    gc.freeze()
    gc.enable()
    threading.Thread(target=_follow_parent, args=(mark,), daemon=True).start()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    with suppress(EOFError, OSError):  # the parent has gone
        if isinstance(objective, Unstarted):
            pipe.send(objective)
            return
        with closing(Carrier(objective)) as worker:
            pipe.send(Ready())
            jobs: tuple[Job, ...] | Stopped
            while isinstance(jobs := pipe.recv(), tuple):
                if not _run(pipe, worker, jobs):
                    return


def _run(pipe: Connection, worker: Carrier, jobs: Sequence[Job]) -> bool:
    """Work on jobs and tell of them; return whether to go on."""
    for message in worker.work(jobs, pipe.poll):
        try:
            pipe.send(message)
        except OSError:
            raise
        except Exception as error:  # what it measured cannot be sent
            pipe.send(raised(jobs[0], error))
            break
        match message:
            case Stopped():
                return False
            case Lost():
                os._exit(1)
            case _:
                pass
    return True


def _follow_parent(mark: str) -> None:
    parent = parent_process()
    assert parent is not None
    while os.getppid() == parent.pid and not wait([parent.sentinel], 1.0):
        pass
    tree.end_own(mark)
    os._exit(1)
