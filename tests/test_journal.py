"""The journal: what is written comes back, damage is found, and everything else can be rebuilt from it."""

import errno
import fcntl
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halving.errors import StorageError, UserError
from halving.executors import Serial
from halving.history import Chosen, Confirm, Confirmed, Ended, Event, Halted, Header, History, Ladder, Resumed
from halving.journal import FILE, Journal, decode, encode, read, replay
from halving.journal.lock import owner
from halving.report.derived import TABLES
from halving.schedulers import SuccessiveHalving
from halving.searchers import RandomSearcher
from halving.space import Space
from halving.trial import Epoch, Finished, Job, Outcome, Restarted, Resume, Start, Verdict
from halving.tuner import Budget, Tuner

HEADER = Header(
    name="a study",
    scheduler="sha",
    searcher="random",
    seed=3,
    r_max=9,
    full_cost=9.0,
    planned_cost=27.0,
    dimensions=("lr", "batch/size~"),
    plan=(Ladder((1, 3, 9), (9, 3, 1)), Ladder((9,), (2,))),
    settings={"config": {"model": {"width": 4, "name": "größe \u2028 🙂"}}, "overrides": ["a=1"], "eta": 3, "x": None},
)
numbers = st.floats(allow_nan=False)
anything = st.one_of(numbers, st.just(math.nan))
names = st.text(max_size=8)
values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names
metrics = st.dictionaries(names, anything, max_size=3)
counts = st.integers(0, 10**6)
outcomes = st.builds(Outcome, counts, counts, anything, st.booleans(), st.lists(anything, max_size=3).map(tuple))
events = st.one_of(
    st.just(HEADER),
    st.builds(Start, counts, st.dictionaries(names, values, max_size=3), counts, counts, counts, names),
    st.builds(Resume, counts, counts, counts, counts, names),
    st.builds(Epoch, counts, counts, metrics),
    st.builds(Finished, outcomes, st.floats(0, 1e6), st.sampled_from([None, "checkpoints/7/27.pt"]), names, numbers),
    st.builds(Restarted, counts, counts, names),
    st.builds(Resumed, st.just(HEADER.plan), st.none() | numbers, st.just({"notes": "größe"})),
    st.builds(Verdict, counts, st.sampled_from(["paused", "stopped", "completed", "failed"]), names),
    st.builds(Halted, names),
    st.builds(Confirm, counts, counts, counts, counts, st.sampled_from(["init", "order", "split"])),
    st.builds(Confirmed, counts, anything, numbers, numbers, st.just("confirmations/7.pt"), names),
    st.builds(Chosen, st.none() | counts, st.dictionaries(names, metrics, max_size=2), metrics, names),
    st.builds(Ended, st.none() | counts, metrics, names, st.just({"model": {"width": 4}})),
)


def raw_of(written: list[Event]) -> bytes:
    return b"".join(encode(event, seq, 0.5 * seq) for seq, event in enumerate(written))


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not strict JSON")


@given(st.lists(events, max_size=5))
def test_every_event_survives_as_a_line_of_strict_json(written: list[Event]) -> None:
    raw = raw_of(written)
    assert raw.count(b"\n") == len(written)
    for seq, line in enumerate(raw.splitlines()):
        record = json.loads(line, parse_constant=refuse)
        assert (record["v"], record["seq"], record["at"]) == (1, seq, 0.5 * seq)
    back, end = decode(raw, Path("j"))
    assert end == len(raw)
    # repr compares NaN with NaN, and tells 1 from 1.0 and from True.
    assert repr([event for event, _ in back]) == repr(written)
    assert [at for _, at in back] == [0.5 * seq for seq in range(len(written))]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null_and_named(number: float) -> None:
    line = encode(Epoch(0, 1, {"val/loss": number, "val_error": 0.5}), 0, 0.0)
    record = json.loads(line)
    assert record["metrics"] == {"val/loss": None, "val_error": 0.5}
    assert list(record["nonfinite"].values()) == [str(number)]
    ((event, _),), _ = decode(line, Path("j"))
    assert repr(event) == repr(Epoch(0, 1, {"val/loss": number, "val_error": 0.5}))


def test_a_lone_surrogate_in_a_cause_survives() -> None:
    """Python's names of undecodable files hold them; a failed trial must not take the study with it."""
    event = Finished(Outcome(0, 0, math.nan, failed=True), cause="cannot open 'caf\udce9'")
    ((back, _),), _ = decode(encode(event, 0, 0.0), Path("j"))
    assert repr(back) == repr(event)


def test_what_has_no_json_is_refused_by_its_place() -> None:
    with pytest.raises(TypeError, match="/settings/here: set"):
        encode(Header("n", "s", "r", 0, 1, settings={"here": {1}}), 0, 0.0)


def test_unknown_fields_are_ignored_and_a_later_version_is_refused() -> None:
    def line(**changes: Any) -> bytes:
        record = {"v": 1, "seq": 0, "at": 1.5, "type": "halted", "reason": "a budget", **changes}
        body = json.dumps(record, separators=(",", ":")).encode()[:-1]
        return body + b',"crc":"%08x"}\n' % zlib.crc32(body)

    assert decode(line(later="field"), Path("j"))[0] == [(Halted("a budget"), 1.5)]
    with pytest.raises(UserError, match="version 2"):
        decode(line(v=2), Path("j"))


WRITTEN: list[Event] = [
    HEADER,
    Start(0, {"lr": 0.1}, 1),
    Epoch(0, 1, {"val_error": math.nan}),
    Finished(Outcome(0, 1, 0.25, curve=(0.25,)), 1.5, "checkpoints/0/1.pt", cost=1.0),
    Verdict(0, "completed", "reached the last rung, 1"),
]
RAW = raw_of(WRITTEN)
BOUNDARIES = [len(raw_of(WRITTEN[:i])) for i in range(len(WRITTEN) + 1)]


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found(position: int, change: int) -> None:
    damaged = bytearray(RAW)
    damaged[position] ^= change
    record = sum(boundary <= position for boundary in BOUNDARIES) - 1
    offset = BOUNDARIES[record]
    if record < len(WRITTEN) - 1:
        with pytest.raises(UserError, match=rf"damaged at byte {offset} \(record {record}\)"):
            decode(bytes(damaged), Path("j"))
    else:
        kept, end = decode(bytes(damaged), Path("j"))
        assert end == offset and repr([event for event, _ in kept]) == repr(WRITTEN[:-1])


def test_every_newline_between_records_matters() -> None:
    for boundary in BOUNDARIES[1:-1]:
        damaged = RAW[: boundary - 1] + b" " + RAW[boundary:]
        with pytest.raises(UserError, match="damaged at byte"):
            decode(damaged, Path("j"))


def test_a_record_out_of_sequence_is_damage() -> None:
    lines = RAW.splitlines(keepends=True)
    with pytest.raises(UserError, match=f"damaged at byte {BOUNDARIES[2]}"):
        decode(b"".join(lines[:2] + lines[3:]), Path("j"))


def test_truncation_at_any_byte_keeps_the_whole_records_and_sets_the_tail_aside(tmp_path: Path) -> None:
    whole = BOUNDARIES[-2]
    for cut in range(whole, len(RAW)):
        run_dir = tmp_path / str(cut)
        run_dir.mkdir()
        (run_dir / FILE).write_bytes(RAW[:cut])
        assert repr([event for event, _ in read(run_dir)]) == repr(WRITTEN[:-1]), "reading needs no repair"
        assert (run_dir / FILE).read_bytes() == RAW[:cut]

        journal = Journal(run_dir)
        assert repr([event for event, _ in journal.events]) == repr(WRITTEN[:-1])
        aside = run_dir / f"journal.torn-{whole}"
        assert (aside.read_bytes() if aside.exists() else b"") == RAW[whole:cut]
        journal.append(WRITTEN[-1], 2.0)
        journal.close()
        assert (run_dir / FILE).read_bytes() == RAW


@pytest.mark.parametrize(
    "tail",
    [
        b"\0",
        b"\0" * 4096,
        b"\n",
        b"\n\n\n",
        b"garbage",
        b"garbage\n",
        b"\xff\xfe\n\0\n",
        b"{}\n",
        b'{"v":1,"seq":5,"at":0,"type":"halted","reason":"","crc":"00000000"}\n',
        b',"crc":"00000000"}\n',
        RAW[: BOUNDARIES[1] // 2],
        RAW[BOUNDARIES[-2] : -1] + b"\0" * 512,
    ],
)
@pytest.mark.parametrize("torn", [False, True])
def test_what_is_glued_on_is_set_aside_and_the_next_append_is_read_twice(
    tmp_path: Path, tail: bytes, torn: bool
) -> None:
    """A disk may fill a file with NULs, or another file's blocks, when power fails."""
    whole = BOUNDARIES[-2] if torn else len(RAW)
    kept = WRITTEN[:-1] if torn else WRITTEN
    glued = (RAW[whole : whole + 40] if torn else b"") + tail
    (tmp_path / FILE).write_bytes(RAW[:whole] + glued)
    assert repr([event for event, _ in read(tmp_path)]) == repr(kept)

    journal = Journal(tmp_path)
    assert (tmp_path / f"journal.torn-{whole}").read_bytes() == glued
    journal.append(Halted("once more"), 9.0)
    journal.close()
    for _ in range(2):
        assert repr([event for event, _ in read(tmp_path)]) == repr([*kept, Halted("once more")])
        Journal(tmp_path).close()
    assert (tmp_path / FILE).read_bytes() == RAW[:whole] + encode(Halted("once more"), len(kept), 9.0)


@pytest.mark.parametrize("damage", [b"\0", b"\n", b"garbage\n", b"\0" * 600])
def test_damage_before_whole_records_is_refused_with_its_offset_wherever_it_is(tmp_path: Path, damage: bytes) -> None:
    for record, offset in enumerate(BOUNDARIES[:-1]):
        for raw in (RAW[:offset] + damage + RAW[offset:], RAW[:offset] + damage + RAW[offset + len(damage) :]):
            if raw.startswith(RAW[: BOUNDARIES[-2]]) or RAW[BOUNDARIES[-2] :] not in raw:
                continue
            (tmp_path / FILE).write_bytes(raw)
            for open_or_read in (Journal, read):
                with pytest.raises(UserError, match=rf"damaged at byte {offset} \(record {record}\)"):
                    open_or_read(tmp_path)
            assert (tmp_path / FILE).read_bytes() == raw
            assert not list(tmp_path.glob("journal.torn-*"))


def test_damage_in_the_middle_is_refused_untouched_and_the_lock_is_given_back(tmp_path: Path) -> None:
    damaged = RAW.replace(b'"lr":0.1', b'"lr":0.2')
    (tmp_path / FILE).write_bytes(damaged)
    for open_or_read in (Journal, read):
        with pytest.raises(UserError, match=f"damaged at byte {BOUNDARIES[1]}"):
            open_or_read(tmp_path)
    assert (tmp_path / FILE).read_bytes() == damaged
    (tmp_path / FILE).write_bytes(RAW)
    Journal(tmp_path).close()


def test_nothing_is_written_before_flush_and_each_sync_is_one_write_and_one_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    calls: list[str] = []
    for name in ("write", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, n=name, real=real: (calls.append(n), real(*args))[1])
    for event in WRITTEN:
        journal.append(event, 0.0)
    assert calls == [] and read(tmp_path) == []
    journal.sync()
    assert calls == ["write", "fsync"] and len(read(tmp_path)) == len(WRITTEN)
    journal.close()


def test_a_full_disk_leaves_a_whole_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.append(WRITTEN[0], 0.0)
    journal.sync()
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:20]))
    journal.append(WRITTEN[1], 0.0)
    with pytest.raises(UserError, match="make room"):
        journal.flush()
    monkeypatch.undo()
    assert (tmp_path / FILE).read_bytes() == RAW[: BOUNDARIES[1]]
    journal.append(WRITTEN[2], 1.0)
    journal.close()
    assert repr([event for event, _ in read(tmp_path)]) == repr(WRITTEN[:3]), "once there is room, all of it"


def test_what_the_disk_refused_to_make_durable_is_made_so_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    calls: list[int] = []

    def fsync(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError("input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    journal.append(WRITTEN[0], 0.0)
    with pytest.raises(StorageError, match="durable: input/output error"):
        journal.sync()
    for _ in range(2):  # the second time there is nothing left to do
        journal.sync()
    assert len(calls) == 2
    journal.close()


def test_a_second_writer_is_refused_with_the_owner_and_a_dead_owner_blocks_nobody(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from halving.journal import Journal; "
    code += "journal = Journal(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    owner = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None and owner.stdout.readline() == "open\n"
        with pytest.raises(UserError, match=rf"host \S+, pid {owner.pid}\b"):
            Journal(tmp_path)
        assert read(tmp_path) == [], "reading takes no lock"
    finally:
        owner.kill()
        owner.communicate()
    Journal(tmp_path).close()


def test_reading_a_directory_without_a_journal_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=FILE):
        read(tmp_path)


def objective(jobs: Sequence[Job]) -> Iterator[Epoch | Finished]:
    """Two epochs a unit; some trials diverge and trial 4 raises."""
    (job,) = jobs
    if job.trial == 4:
        raise ValueError("no such configuration")
    lr = float(job.configuration["lr"] or 0)
    error = math.nan if lr > 0.9 else abs(lr - 0.3) + 1 / job.until
    for epoch in range(2 * job.since + 1, 2 * job.until + 1):
        yield Epoch(job.trial, epoch, {"val_error": error, "train_loss": 1 / epoch, "seconds": 0.25, "lr": lr})
    yield Finished(Outcome(job.trial, job.until, error, math.isnan(error)), 0.5)


def written_study(run_dir: Path, budget: Budget | None = None) -> History:
    journal = Journal(run_dir)
    searcher = RandomSearcher(Space.from_config({"lr": {"_target_": "scipy.stats.uniform"}}), seed=0)
    scheduler = SuccessiveHalving(searcher, eta=3, r_min=1, r_max=9)
    tuner = Tuner(
        scheduler,
        Serial(objective),
        cost=lambda since, until: until - since,
        journal=journal,
        budget=budget,
    )
    tuner.record(Header("s", "sha", "random", 0, 9, full_cost=9.0, dimensions=("lr",), plan=scheduler.plan))
    tuner.run()
    best = tuner.history.incumbent
    tuner.record(Ended(best[0].trial if best else None, {"test_error": 0.125}, "python train.py trial=1"))
    journal.close()
    return tuner.history


@pytest.mark.parametrize("budget", [None, Budget(evaluations=11)])
def test_replay_gives_the_live_history_and_the_tables_byte_for_byte(tmp_path: Path, budget: Budget | None) -> None:
    live = written_study(tmp_path, budget)
    rebuilt = replay(read(tmp_path))
    assert any(math.isinf(evaluation.error) for _, evaluation in live.finished)
    for name, text in TABLES.items():
        assert text(live) == text(rebuilt), name
    assert repr(rebuilt) == repr(live)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_a_prefix_of_the_journal_is_an_earlier_state(tmp_path: Path, share: float) -> None:
    """Folding a prefix and then the rest is folding all: a state can be taken up anywhere."""
    if not (tmp_path / FILE).exists():
        written_study(tmp_path)
    told = read(tmp_path)
    cut = int(share * len(told))
    history = replay(told[:cut])
    assert history.running in (0, 1) and len(history.finished) <= cut
    for event, at in told[cut:]:
        history.apply(event, at)
    assert repr(history) == repr(replay(told))


@pytest.mark.parametrize(
    "event",
    [
        *(Finished(Outcome(99, 1, 0.1)), Confirmed(99, 0.1), Verdict(99, "paused"), Confirm(1, 0, 1, 3, "all")),
        *(Start(-1, {}, 1), Finished(Outcome(0, -1, 0.1)), Finished(Outcome(0, 1, 0.1), checkpoint="../../1")),
        *(Ended(True), Chosen(-1), Epoch("0", 1, {})),  # type: ignore[arg-type]
    ],
)
def test_a_whole_record_that_no_study_could_have_is_refused_in_words(event: Event, tmp_path: Path) -> None:
    header = Header("strange", "sha", "random", 0, 9)
    lines = [encode(each, seq, 0.0) for seq, each in enumerate([header, Start(0, {}, 1), event])]
    (tmp_path / FILE).write_bytes(b"".join(lines))
    with pytest.raises(UserError, match="record 2"):
        replay(read(tmp_path))


def forked(task: Callable[[], None]) -> int:
    """Begin a task in a child, which ends as after SIGKILL: nothing is given back."""
    if (pid := os.fork()) == 0:
        try:
            task()
        finally:
            os._exit(0)
    return pid


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_flock")
def test_one_process_writes_also_where_nothing_can_be_locked(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    holder = forked(lambda: (Journal(tmp_path), taken.touch(), time.sleep(60)))
    while not taken.exists():
        time.sleep(0.005)
    began = time.monotonic()
    with pytest.raises(UserError, match=rf"written by host {socket.gethostname()}, pid {holder}; wait for it") as told:
        Journal(tmp_path)
    assert time.monotonic() - began < 1 and "remove" not in str(told.value)
    assert owner(tmp_path) == f"host {socket.gethostname()}, pid {holder}"
    os.kill(holder, signal.SIGKILL)
    while owner(tmp_path):  # though nobody has waited for it
        assert time.monotonic() - began < 5
    journal = Journal(tmp_path)
    os.waitpid(holder, 0)
    os.waitpid(forked(journal.close), 0)  # a child gives up nothing of its parent's
    with pytest.raises(UserError, match=f"pid {os.getpid()}"):
        Journal(tmp_path)
    journal.close()
    assert owner(tmp_path) == ""
    Journal(tmp_path).close()


@pytest.mark.usefixtures("no_flock")
def test_one_of_many_takes_a_dead_ones_lock(tmp_path: Path) -> None:
    os.waitpid(forked(lambda: Journal(tmp_path)), 0)
    go, ended = tmp_path / "go", tmp_path / "ended"

    def contend() -> None:
        while not go.exists():
            pass
        try:
            Journal(tmp_path)
        except UserError:
            return
        (tmp_path / f"won-{os.getpid()}").touch()
        while not ended.exists():
            time.sleep(0.005)

    contenders = [forked(contend) for _ in range(6)]
    go.touch()
    winner = None
    while winner is None:
        winner = next(tmp_path.glob("won-*"), None)
    for pid in contenders:
        if str(pid) not in winner.name:
            os.waitpid(pid, 0)
    ended.touch()
    os.waitpid(int(winner.name.removeprefix("won-")), 0)
    assert len(list(tmp_path.glob("won-*"))) == 1


@pytest.mark.parametrize("flocks", [True, False])
def test_the_claim_of_another_host_holds_until_somebody_removes_it(
    flocks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not flocks:
        monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "no")))
    claim = tmp_path / "journal.lock-3"
    claim.write_text("host elsewhere, pid 7\nnamespace pid:[1], began 12\n")
    with pytest.raises(UserError, match=r"written by host elsewhere, pid 7; .* if it has ended there, remove ") as told:
        Journal(tmp_path)
    assert str(told.value).endswith(f"remove {claim}")
    claim.unlink()
    Journal(tmp_path).close()
