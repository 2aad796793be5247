"""Several jobs at a time, each in a process of its own."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import current_process, get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pickle import PicklingError
from secrets import token_hex

from halving.environment import wait_passively
from halving.errors import StudyError, UserError, real, whole
from halving.executors import signals, tree
from halving.executors.base import Objective, advance, details, failure, log_failure
from halving.trial import Epoch, Finished, Job, Restarted, Step

log = logging.getLogger(__name__)

_WORKERS = 1024  # many more are a slip, which takes all of the machine's memory
_START = 120.0  # seconds that a worker may take for its imports
_PARTING = 10.0  # seconds that one may take for its end


@dataclass(frozen=True)
class _Ready:
    """The worker has imported what it needs."""


@dataclass(frozen=True)
class _Stop:
    """From the parent: leave a checkpoint after this epoch, and end. From a worker: that is done."""


@dataclass(frozen=True)
class _Raised:
    """The objective raised: `dying` where the worker ends with it, as it has run out of memory."""

    cause: str
    details: str
    dying: bool = False


@dataclass
class _Worker:
    """A process and the job that it works on.

    `failures` counts how often a process has died of that job, `due` is when the job must have ended, `last` the trial
    that may still be in memory, `words` what a process said before it died, and `mark` tells its process tree.
    """

    process: BaseProcess
    pipe: Connection
    device: str | None
    mark: str
    ready: bool = False
    dead: bool = False
    stopped: bool = False
    job: Job | None = None
    began: float = 0.0
    due: float | None = None
    failures: int = 0
    last: int | None = None
    words: str = ""


class Process:
    """Runs jobs in `workers` spawned processes, one pipe each, all waited on together.

    Nothing is shared between workers, so that the death of one, at any instruction, takes no lock with it: that is
    what a pool on a shared queue cannot promise. A trial goes back to the worker that had it last, where its state may
    still be in memory. A job whose worker dies or runs out of memory is given, up to `retries` times, to a new worker;
    one that takes longer than `trial_timeout` seconds is killed and fails. Workers end within a second after their
    parent, and whatever their trials started ends with them. `devices` are the GPUs to see, one name per worker in
    turn.

    Raises UserError for counts and times out of range.
    """

    def __init__(
        self,
        objective: Objective,
        workers: int,
        retries: int = 2,
        trial_timeout: float | None = None,
        devices: Sequence[str] = (),
    ) -> None:
        self.workers = whole("executor.workers", workers, most=_WORKERS)
        if trial_timeout is not None:
            real("executor.trial_timeout", trial_timeout, lambda x: x > 0, "must be more than 0 seconds")
        self._objective = objective
        self._retries = whole("executor.retries", retries, 0)
        self._timeout = trial_timeout
        self._began, self._places = time.monotonic(), set[str]()
        wait_passively()  # several workers' threads share the cores
        self._workers = [self._spawn(devices[i % len(devices)] if devices else None) for i in range(self.workers)]

    def submit(self, job: Job) -> None:
        free = [worker for worker in self._workers if worker.job is None]
        # Its own worker has the trial in memory; of the others, the one whose memory is of least use.
        worker = min(free, key=lambda each: (each.last != job.trial, each.last is not None, not each.ready))
        worker.failures = 0
        self._hand(worker, job)

    def wait(self) -> Iterator[Step]:
        """Yield steps until something has happened, a worker being free again or not."""
        alive = [worker for worker in self._workers if not worker.dead]
        heard = wait([each.pipe for each in alive] + [each.process.sentinel for each in alive], self._patience())
        for worker in alive:
            if worker.pipe in heard or not worker.process.is_alive():
                yield from self._listen(worker)
        for worker in self._workers:
            if worker.job is not None and worker.due is not None and time.monotonic() >= worker.due:
                self._replace(worker)
                yield self._end(worker, f"timeout: it took longer than executor.trial_timeout={self._timeout:g} s")

    def has_room(self) -> bool:
        return any(worker.job is None for worker in self._workers)

    def idle(self) -> bool:
        return all(worker.job is None for worker in self._workers)

    def now(self) -> float:
        return time.monotonic() - self._began

    def stop(self) -> Iterator[Step]:
        for worker in self._workers:
            _send(worker, _Stop())
        while waited := [worker for worker in self._workers if worker.process.is_alive() and not worker.stopped]:
            heard = wait([each.pipe for each in waited] + [each.process.sentinel for each in waited], self._patience())
            for worker in waited:
                if worker.pipe in heard:
                    yield from self._last_words(worker)
                elif worker.due is not None and time.monotonic() >= worker.due:
                    _kill([worker])

    def shutdown(self, graceful: bool = True) -> None:
        try:
            if graceful:
                for _ in self.stop():
                    pass
        finally:
            _kill(self._workers)
            for worker in self._workers:
                worker.pipe.close()
            self._workers = []

    def _last_words(self, worker: _Worker) -> Iterator[Step]:
        """Yield a step of a worker that was asked to stop, and note when it has."""
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            worker.stopped = True
            return
        match message:
            case _Stop():
                worker.stopped = True
            case StudyError():
                raise message
            case Epoch() | Restarted() | Finished():
                if isinstance(message, Finished):
                    worker.job = None
                yield message
            case _:
                pass  # a job that failed now is run again when the study goes on

    def _spawn(self, device: str | None) -> _Worker:
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

    def _replace(self, worker: _Worker) -> None:
        """Put a new process in the place of one that is dead or must die."""
        _kill([worker])
        worker.pipe.close()
        new = self._spawn(worker.device)
        worker.process, worker.pipe, worker.mark = new.process, new.pipe, new.mark
        worker.ready = worker.dead = worker.stopped = False
        worker.last, worker.words = None, ""

    def _hand(self, worker: _Worker, job: Job) -> None:
        if worker.dead:
            self._replace(worker)
        worker.job = job
        worker.last = job.trial
        worker.began = time.monotonic()
        self._set_due(worker)
        _send(worker, job)

    def _set_due(self, worker: _Worker) -> None:
        # The time that a new process takes for its imports is not the trial's, but it must have an end, too.
        limit = self._timeout if worker.ready or self._timeout is None else self._timeout + _START
        worker.due = time.monotonic() + limit if limit is not None else None

    def _patience(self) -> float:
        # What a dead worker had started may hold its pipes open, so that its death is not heard but must be looked for.
        dues = [worker.due for worker in self._workers if worker.job is not None and worker.due is not None]
        return max(0.0, min([1.0, *(due - time.monotonic() for due in dues)]))

    def _listen(self, worker: _Worker) -> Iterator[Step]:
        """Yield what a worker has said; take care of its end, if that was all."""
        while True:
            try:
                if not worker.pipe.poll():
                    if worker.process.is_alive():
                        return
                    break
                message = worker.pipe.recv()
            except (EOFError, OSError):
                break
            match message:
                case _Ready():
                    worker.ready = True
                    self._set_due(worker)
                case StudyError():
                    raise message
                case _Raised(dying=True):
                    worker.words = message.cause
                case _Raised():
                    job = worker.job
                    assert job is not None
                    log_failure(job, message.cause, message.details, self._places)
                    yield self._end(worker, message.cause)
                case Finished():
                    worker.job = None
                    yield message
                case _:
                    yield message
        yield from self._bury(worker)

    def _bury(self, worker: _Worker) -> Iterator[Step]:
        """Give a dead worker's job to a new one, as long as there are retries left."""
        if worker.process.is_alive():
            worker.process.join(_PARTING)
        _kill([worker])
        worker.dead = True
        if not worker.ready and (worker.process.exitcode or 0) > 0:
            raise UserError(
                f"executor=process: a worker could not start ({_epitaph(worker.process.exitcode)}; it says above why); "
                'what it runs must be importable, and a script be guarded by if __name__ == "__main__":'
            )
        if (job := worker.job) is None:
            return
        reason = worker.words or _epitaph(worker.process.exitcode)
        worker.failures += 1
        if worker.failures <= self._retries:
            log.warning("%s: %s; retry %d of %d", job.label, reason, worker.failures, self._retries)
            yield Restarted(job.trial, job.since, f"{reason}; retry {worker.failures} of {self._retries}")
            self._hand(worker, job)
        else:
            yield self._end(worker, f"{reason}, also after executor.retries={self._retries}")

    def _end(self, worker: _Worker, cause: str) -> Finished:
        job = worker.job
        assert job is not None
        worker.job = None
        return failure(job, cause, time.monotonic() - worker.began)


def _kill(workers: Sequence[_Worker]) -> None:
    """Kill workers and what their trials started. Of a dead one that has long been done, and its id be another's."""
    living = [worker for worker in workers if not worker.dead]
    tree.end({worker.process.pid: worker.mark for worker in living if worker.process.pid is not None})
    for worker in living:
        worker.process.kill()
    for worker in living:
        worker.process.join()


def _send(worker: _Worker, message: object) -> None:
    with suppress(OSError):  # it is dead, which the next wait finds out
        worker.pipe.send(message)


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
    tree.lead(mark)
    signals.ignore()  # the parent decides
    return mark


def _work(pipe: Connection, mark: str, objective: Objective, device: str | None) -> None:
    """Be a worker: run the jobs that come through the pipe, until it says stop."""
    threading.Thread(target=_follow_parent, args=(mark,), daemon=True).start()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    with suppress(EOFError, OSError):  # the parent has gone
        pipe.send(_Ready())
        while isinstance(job := pipe.recv(), Job):
            if not _run(pipe, objective, job):
                break
        pipe.send(_Stop())


def _run(pipe: Connection, objective: Objective, job: Job) -> bool:
    """Run one job and send its steps; return whether to go on."""
    try:
        steps = objective((job,))
        while (step := advance(steps)) is not None:
            pipe.send(step)
            if isinstance(step, Epoch) and pipe.poll():
                steps.close()
                return False
    except StudyError as error:
        pipe.send(error)
    except MemoryError as error:
        pipe.send(_Raised(f"its worker ran out of memory ({error})", "", dying=True))
        os._exit(1)
    except BaseException as error:  # SystemExit, too, ends no more than the trial
        cause = failure(job, error, 0.0).cause
        pipe.send(_Raised(cause, details(error)))
    return True


def _follow_parent(mark: str) -> None:
    parent = parent_process()
    assert parent is not None
    while os.getppid() == parent.pid and not wait([parent.sentinel], 1.0):
        pass
    tree.end({os.getpid(): mark})
    os._exit(1)
