"""TensorBoard: every trial is a run with its curves, and a row in the table of the HParams plugin."""

import math
import shlex
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from halving.errors import UserError
from halving.history import Confirmation, Confirmed, Event, Header, History, Resumed, Trial
from halving.tracking.runs import measured, metric_name, notes_text, run_directory, steps
from halving.trial import Configuration, Epoch, Finished, Resume, Start, Value, Verdict

FOLDER = "tensorboard"
FILE = "events.out.tfevents.halving"  # it looks for any name with tfevents
ENDS = {"stopped": "STATUS_SUCCESS", "completed": "STATUS_SUCCESS", "failed": "STATUS_FAILURE"}

# Records of an event file, each made only where it is written.
Records = Iterator[partial[bytes]]


class TensorBoard:
    """Writes `<run directory>/tensorboard`: a folder with one event file for each trial and each confirmation.

    A trial's scalars are its metrics by epoch and, where an assignment ended, `final/<metric>` and `final/resource`, of
    which the table has the last. A file follows from the history record by record, so it is only ever added to, and
    opened for that alone: a resumed study cuts off what a kill has torn, and adds what the file lacks.

    Raises UserError where TensorBoard is not installed.
    """

    def __init__(self) -> None:
        if find_spec("tensorboard") is None:
            raise UserError("tracker=tensorboard: TensorBoard is not installed: pip install 'halving[tensorboard]'")
        self._began = 0.0
        self._written: dict[str, int] = {}

    def resume(self, history: History) -> None:
        self._describe(history)
        for trial in history.trials.values():
            self._follow(trial, history)
        for confirmation in history.confirmations.values():
            self._confirm(confirmation, history)

    def record(self, event: Event, history: History) -> None:
        match event:
            case Header():
                clear(run_directory(event, "TensorBoard"))  # of what lay there, it is none of this study's
                self._describe(history)
            case Resumed():
                self._describe(history)
            case Start(trial) | Resume(trial) | Epoch(trial) | Verdict(trial):
                self._follow(history.trials[trial], history)
            case Finished(outcome):
                self._follow(history.trials[outcome.trial], history)
            case Confirmed(number):
                self._confirm(history.confirmations[number], history)
            case _:
                pass

    def close(self, history: History) -> None:
        """Leave the files, of which none is open."""

    def command(self, history: History) -> str | None:
        """Return the line that shows the study, if there is anything to show."""
        if history.header is None or not self._written:
            return None
        return f"tensorboard --logdir {shlex.quote(str(run_directory(history.header, 'TensorBoard') / FOLDER))}"

    def _describe(self, history: History) -> None:
        """Write the table's columns with their types and domains; of studies that lack these it infers them."""
        header = history.header
        self._began = self._began or time.time() - history.seconds
        if header is None or not (domains := _domains(header)):
            return
        folder = run_directory(header, "TensorBoard") / FOLDER
        folder.mkdir(exist_ok=True)
        (folder / FILE).unlink(missing_ok=True)  # the notes may be more than they were
        self._written.pop("", None)
        columns = partial(_experiment, header, domains, notes_text(history.notes), self._began)
        self._add("", header, iter([_VERSION, columns]))

    def _follow(self, trial: Trial, history: History) -> None:
        if history.header is not None:
            name = f"trial-{trial.trial}"
            self._add(name, history.header, self._of_trial(trial, history.header, history.seconds))

    def _confirm(self, confirmation: Confirmation, history: History) -> None:
        if history.header is not None and confirmation.confirmed is not None:
            asked = confirmation.asked
            name = f"trial-{asked.trial}-again-{asked.number}"
            configuration = history.trials[asked.trial].configuration
            self._add(name, history.header, self._of_confirmation(confirmation, configuration, history.header))

    def _of_trial(self, trial: Trial, header: Header, now: float) -> Records:
        epochs: dict[int, list[tuple[int, Epoch]]] = {}
        for step, evaluation, epoch in steps(trial):
            epochs.setdefault(id(evaluation), []).append((step, epoch))
        yield _VERSION
        yield partial(_begun, trial.configuration, header, self._began + trial.evaluations[0].started)
        for evaluation in trial.evaluations:
            at = self._began + (now if evaluation.finished is None else evaluation.ended)
            for step, epoch in epochs.get(id(evaluation), ()):
                yield partial(_scalars, epoch.metrics, step, at)
            if evaluation.finished is not None:
                yield partial(_scalars, _final(evaluation.error, evaluation.resource, header), evaluation.resource, at)
        if trial.state in ENDS:
            yield partial(_ended, ENDS[trial.state], self._began + trial.last.ended)

    def _of_confirmation(self, it: Confirmation, configuration: Configuration, header: Header) -> Records:
        error, at = it.confirmed.error if it.confirmed is not None else math.inf, self._began + it.ended
        yield _VERSION
        yield partial(_begun, configuration, header, self._began + it.started)
        yield partial(_scalars, _final(error, it.asked.until, header), it.asked.until, at)
        yield partial(_ended, ENDS["completed" if math.isfinite(error) else "failed"], at)

    def _add(self, name: str, header: Header, records: Records) -> None:
        """Write those of a run's records that its file does not hold yet."""
        path = run_directory(header, "TensorBoard") / FOLDER / name / FILE
        if name not in self._written:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._written[name] = _whole(path)
        if new := [record() for record in islice(records, self._written[name], None)]:
            with path.open("ab") as file:
                for record in new:
                    file.write(_framed(record))
            self._written[name] += len(new)


def clear(run_dir: Path) -> None:
    """Delete the event files of a study."""
    for path in (run_dir / FOLDER).rglob(FILE):
        path.unlink()


def _whole(path: Path) -> int:
    """Return how many records a file holds, once what is torn at its end is cut off."""
    if not path.exists():
        return 0
    raw, at, count = path.read_bytes(), 0, 0
    while at + 12 <= len(raw) and (end := at + 16 + struct.unpack_from("<Q", raw, at)[0]) <= len(raw):
        if _framed(raw[at + 12 : end - 4]) != raw[at:end]:
            break
        at, count = end, count + 1
    if at < len(raw):
        with path.open("r+b") as file:
            file.truncate(at)
    return count


def _framed(record: bytes) -> bytes:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c  # pyright: ignore

    length = struct.pack("<Q", len(record))
    sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, record))
    return b"".join((length, next(sums), record, next(sums)))


def _record(at: float, **content: Any) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event as Record  # pyright: ignore

    return Record(wall_time=at, **content).SerializeToString()


_VERSION = partial(_record, 0.0, file_version="brain.Event:2")


def _scalars(values: Mapping[str, float], step: int, at: float) -> bytes:
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

    pairs = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    return _record(at, step=step, summary=Summary(value=pairs))


def _final(error: float, resource: int, header: Header) -> dict[str, float]:
    found = {f"final/{metric_name(header)}": measured(header, error)} if math.isfinite(error) else {}
    return found | {"final/resource": resource}


def _begun(configuration: Configuration, header: Header, at: float) -> bytes:
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionStartInfo  # pyright: ignore

    session = SessionStartInfo(start_time_secs=at)
    for key, value in configuration.items():
        domain = _domains(header).get(key)
        kind = _kind(domain if isinstance(domain, list) else [value])
        setattr(session.hparams[key], _KINDS[kind][0], str(value) if kind is str else value)
    return _plugin_data("SESSION_START_INFO_TAG", at, session_start_info=session)


def _ended(status: str, at: float) -> bytes:
    from tensorboard.plugins.hparams.api_pb2 import Status  # pyright: ignore
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo  # pyright: ignore

    session = SessionEndInfo(status=Status.Value(status), end_time_secs=at)
    return _plugin_data("SESSION_END_INFO_TAG", at, session_end_info=session)


def _experiment(header: Header, domains: Mapping[str, Any], notes: str, at: float) -> bytes:
    api: Any = import_module("tensorboard.plugins.hparams.api_pb2")

    metrics = [
        api.MetricInfo(name=api.MetricName(tag=f"final/{name}"), display_name=name)
        for name in (metric_name(header), "resource")
    ]
    told = api.Experiment(name=header.name, description=notes, time_created_secs=at, metric_infos=metrics)
    for name, domain in domains.items():
        column = told.hparam_infos.add(name=name)
        kind = _kind(domain) if isinstance(domain, list) else float
        column.type = api.DataType.Value(_KINDS[kind][1])
        match domain:
            case [*values]:
                column.domain_discrete.extend(map(str, values) if kind is str else values)
            case {"low": low, "high": high}:
                column.domain_interval.min_value, column.domain_interval.max_value = low, high
            case _:
                column.ClearField("type")
    return _plugin_data("EXPERIMENT_TAG", at, experiment=told)


def _plugin_data(tag: str, at: float, **content: Any) -> bytes:
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore
    from tensorboard.plugins.hparams import metadata  # pyright: ignore
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # pyright: ignore

    described = metadata.create_summary_metadata(HParamsPluginData(**content))
    value = Summary.Value(tag=getattr(metadata, tag), metadata=described, tensor=metadata.NULL_TENSOR)
    return _record(at, summary=Summary(value=[value]))


# The field that a value goes into, and the type of its column.
_KINDS = {
    bool: ("bool_value", "DATA_TYPE_BOOL"),
    float: ("number_value", "DATA_TYPE_FLOAT64"),
    str: ("string_value", "DATA_TYPE_STRING"),
}


def _domains(header: Header) -> Mapping[str, Any]:
    return header.provenance.domains


def _kind(values: Iterable[Value]) -> type[bool | float | str]:
    """Return what a column of such values holds: texts, where they are of several types or None."""
    kinds = {bool if isinstance(value, bool) else float if isinstance(value, int | float) else str for value in values}
    return kinds.pop() if len(kinds) == 1 else str
