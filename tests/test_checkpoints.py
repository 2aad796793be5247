"""What a checkpoint holds, that no change of it goes unseen, and which of them stay."""

import copy
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from halving.checkpoints import confirmation, discard, is_kept, named, resources, sweep
from halving.checkpoints.content import digest, read, storable, write
from halving.checkpoints.store import State, Store
from halving.errors import UserError
from halving.history import Chosen, Confirm, Event, Header, History
from halving.trial import Finished, Job, Outcome, Restarted, Start, Verdict

HELD: dict[str, Any] = {
    "weights": torch.arange(6.0).reshape(2, 3),
    "steps": [1, 2.0, True, None, "text", b"bytes"],
    "pair": (1, {"deep": OrderedDict(a=1, b=2)}),
    "counted": Counter("aab"),
    "shape": torch.Size([2, 3]),
    "device": torch.device("cpu"),
}


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content = copy.deepcopy(HELD)
    change(content)
    return content


@pytest.mark.parametrize(
    "content",
    [
        changed(lambda c: c["weights"].__setitem__((1, 2), 5.5)),
        changed(lambda c: c.update(weights=c["weights"].double())),
        changed(lambda c: c.update(weights=c["weights"].view(torch.int32))),  # the same bytes
        changed(lambda c: c.update(weights=c["weights"].reshape(3, 2))),
        changed(lambda c: c["steps"].append(1)),
        changed(lambda c: c["steps"].__setitem__(1, 2)),
        changed(lambda c: c["pair"][1]["deep"].update(b=3)),
        changed(lambda c: c["pair"][1].update({"deep": {"a": 1}, "b": 2})),
        changed(lambda c: c["counted"].update("b")),
        changed(lambda c: c.update({"Shape": c.pop("shape")})),
    ],
)
def test_every_part_belongs_to_the_digest(content: dict[str, Any]) -> None:
    assert digest(content) != digest(HELD)
    assert digest(copy.deepcopy(HELD)) == digest(HELD)


def test_what_is_written_is_read_as_it_was_on_whatever_it_lay(tmp_path: Path) -> None:
    arrays = {"array": np.arange(3, dtype=np.uint16), "number": np.float32(0.5), "of": [np.ones(2, bool)]}
    large = torch.arange(1_000_000.0)[::250_000]  # a view: neither too much nor in another order
    write({**HELD, **arrays, "view": large}, tmp_path / "sub" / "1.pt")
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["1.pt"]
    found = read(tmp_path / "sub" / "1.pt")
    assert torch.equal(found.pop("view"), large) and torch.equal(found.pop("weights"), HELD["weights"])
    array, number, (flags,) = found.pop("array"), found.pop("number"), found.pop("of")
    assert (array.dtype, array.tolist(), number, flags.dtype) == (np.uint16, [0, 1, 2], 0.5, bool)
    rest = {name: value for name, value in HELD.items() if name != "weights"}
    assert found == rest
    assert [type(value) for value in found.values()] == [type(value) for value in rest.values()]
    assert type(found["pair"][1]["deep"]) is OrderedDict


def test_what_needs_no_change_is_not_copied_and_what_does_keeps_its_kind() -> None:
    assert storable(HELD, "state") is HELD
    mixed = OrderedDict(a=[np.float64(1.5), 2], b=(np.int64(3),))
    mixed.version = 7  # pyright: ignore  (as a module's state has it)
    made = storable(mixed, "state")
    assert type(made) is OrderedDict and made.version == 7  # pyright: ignore
    assert made == {"a": [1.5, 2], "b": (3,)} and [type(made["a"][0]), type(made["b"][0])] == [float, int]
    array = np.arange(3)
    kept = storable({"array": array}, "state")
    array[0] = 9
    (tensor,) = kept["array"].values()
    assert tensor.tolist() == [0, 1, 2], "as it was at this moment"


@pytest.mark.parametrize("part", range(0, 100, 7))
def test_no_damage_is_read(part: int, tmp_path: Path) -> None:
    write(HELD, tmp_path / "1.pt")
    raw = bytearray((tmp_path / "1.pt").read_bytes())
    begin = bytes(raw).index(np.arange(6, dtype=np.float32).tobytes())
    for place in (begin + part % 24, part * len(raw) // 100):
        damaged = bytearray(raw)
        damaged[place] ^= 255
        (tmp_path / "1.pt").write_bytes(damaged)
        try:
            found = read(tmp_path / "1.pt")
        except UserError as error:
            assert f"{tmp_path / '1.pt'} is damaged" in str(error)
        else:
            assert place != begin + part % 24 and digest(found) == digest(HELD), "a byte that is padding"


def tree(root: Path) -> set[str]:
    return {path.relative_to(root / "checkpoints").as_posix() for path in root.rglob("*") if not path.is_dir()}


def made(root: Path, *names: str) -> None:
    for name in names:
        (root / "checkpoints" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "checkpoints" / name).touch()


def test_discarding_leaves_what_is_named_and_what_a_training_works_in(tmp_path: Path) -> None:
    made(tmp_path, "3/1.pt", "3/3/files/a", "3/9.pt", "3/working-1/b", "3/note.pt", "30/1.pt")
    assert resources(tmp_path, 3) == [9, 3, 1] and resources(tmp_path, 4) == []
    discard(tmp_path, 3, (3, 27))
    assert tree(tmp_path) == {"3/3/files/a", "3/working-1/b", "30/1.pt"}
    discard(tmp_path, 3)
    assert tree(tmp_path) == {"30/1.pt"} and not (tmp_path / "checkpoints" / "3").exists()


def test_a_worker_that_was_given_up_deletes_nothing_newer(tmp_path: Path) -> None:
    made(tmp_path, "3/1.pt", "3/3/files/a", "3/6.pt", "3/6.0a.tmp", "3/9.0a.tmp", "3/27.pt", "3/working-1/b", "30/1.pt")
    Store(tmp_path).supersede(3, 3, 9)
    assert tree(tmp_path) == {"3/3/files/a", "3/9.0a.tmp", "3/27.pt", "3/working-1/b", "30/1.pt"}


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("when", ["os.fsync", "halving.checkpoints.store.remove"])
def test_two_workers_may_write_the_same_checkpoint(
    when: str, own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One begins when the other has written half of it, or is about to put it there, and is done before."""
    store, files = Store(tmp_path / "study"), tmp_path / "files"
    files.mkdir()
    (files / "a").write_text("whole")
    state, others = State({"x": 1}, files if own else None), [1, 2]
    module, _, name = when.rpartition(".")
    act = getattr(sys.modules[module], name)

    def halfway(what: Any) -> None:
        act(what)
        if others:
            others.pop()
            store.save(4, 9, "hash", state)

    monkeypatch.setattr(when, halfway)
    store.save(4, 9, "hash", state)
    store.save(4, 9, "hash", state)
    assert store.load(4, 9, "hash").values == {"x": 1} and (not others or not own)
    assert [path.name for path in (tmp_path / "study" / "checkpoints" / "4").iterdir()] == ["9" if own else "9.pt"]


def test_sweeping_leaves_what_somebody_still_needs(tmp_path: Path) -> None:
    """Trial 0 is best, 1 runs, 2 is paused, 3 stopped, 4 unknown; 5 failed; -1 is of trial 0, -2 of 2, -3 of nobody."""
    history = History()
    events: list[Event] = [Header("s", "sha", "random", 0, 9), *(Start(trial, {}, 3) for trial in (0, 1, 2, 3, 5))]
    for trial, state in ((0, "stopped"), (2, "paused"), (3, "stopped"), (5, "failed")):
        error = float("nan") if state == "failed" else 0.1 * trial
        checkpoint = None if state == "failed" else f"checkpoints/{trial}/3.pt"
        events += [Finished(Outcome(trial, 3, error), checkpoint=checkpoint), Verdict(trial, state)]
    events += [Confirm(1, 0, 1, 9, "init"), Confirm(2, 2, 1, 9, "init")]
    for event in events:
        history.apply(event, 0.0)
    assert [named(trial) for trial in history.trials.values()] == [(3,), (), (3,), (3,), ()]
    trials = [f"{trial}/{file}" for trial in range(6) for file in ("1.pt", "3.pt", "3.0a.tmp", "working-1/a")]
    confirmations = ["-1/9.pt", "-2/9.pt", "-2/9.0a.tmp", "-3/9.pt", "other/1.pt"]
    needed = {"0/3.pt", "1/1.pt", "1/3.pt", "2/3.pt"}

    def left() -> set[str]:
        made(tmp_path, *trials, *confirmations)
        sweep(tmp_path, history)
        return tree(tmp_path)

    assert left() == needed | {"-1/9.pt", "-2/9.pt"}
    assert [is_kept(history, number) for number in (1, 2, 3)] == [True, True, False]
    history.apply(Chosen(2), 0.0)
    assert left() == needed | {"-2/9.pt"}
    assert [is_kept(history, number) for number in (1, 2, 3)] == [False, True, False]
    assert [confirmation(name) for name in ("-12", "12", "-a", "--1", "-")] == [12, None, None, None, None]


@pytest.mark.parametrize("own", [False, True])
def test_the_newest_whole_checkpoint_serves_and_what_is_wrong_with_the_others_is_said(
    own: bool, tmp_path: Path
) -> None:
    store, files = Store(tmp_path / "study"), tmp_path / "files"
    (files / "sub").mkdir(parents=True)
    (files / "sub" / "a").write_text("whole")
    (files / "empty").mkdir()
    for resource in (1, 3, 9):
        said = store.save(4, resource, "hash", State({"x": resource}, files if own else None))
        assert said == f"checkpoints/4/{resource}{'' if own else '.pt'}" and 0 < store.seconds < 60

    def newest(since: int, until: int, config: str = "hash") -> tuple[int, str]:
        steps = store.newest(Job(4, {}, since, until), config)
        said = ""
        while True:
            try:
                step = next(steps)
            except StopIteration as ended:
                return ended.value.resource, said
            assert isinstance(step, Restarted) and step.trial == 4 and not said
            said = f"from {step.since}: {step.reason}"

    assert newest(3, 9) == (9, "") and newest(3, 8) == (3, "") and newest(0, 2) == (1, "")
    assert newest(5, 8) == (3, "from 3: trial 4 has no checkpoint at 5")
    assert "its config is hash, not other" in newest(3, 9, "other")[1]
    found = store.load(4, 9, None)
    assert (found.values, found.resource) == ({"x": 9}, 9)
    if own:
        assert found.files is not None and (found.files / "sub" / "a").read_text() == "whole"
        for damage in (lambda at: (at / "sub" / "a").write_text("other"), lambda at: (at / "more").touch()):
            damage(found.files)
            resource, said = newest(3, 9)
            assert resource == 3 and "from 3: " in said and "is damaged: it is not as it was saved" in said
            store.save(4, 9, "hash", State({"x": 9}, files))
        (found.files / "empty").rmdir()
        assert newest(3, 9)[0] == 3
    else:
        (tmp_path / "study" / said).write_bytes(b"")
        assert newest(3, 9)[0] == 3


def test_one_paused_trial_stays_in_memory_for_whoever_asks_for_just_that(tmp_path: Path) -> None:
    class Training:
        closed = 0

        def close(self) -> None:
            self.closed += 1

    store, trainings = Store(tmp_path), [Training() for _ in range(5)]
    store.keep(1, 3, "hash", trainings[0])
    assert store.take(1, 3, "hash") is trainings[0] and store.take(1, 3, "hash") is None
    for number, asked in enumerate([(2, 3, "hash"), (1, 9, "hash"), (1, 3, "other")], start=1):
        store.keep(1, 3, "hash", trainings[number])
        assert store.take(*asked) is None and store.take(1, 3, "hash") is None
    store.keep(1, 3, "hash", trainings[4])
    store.keep(2, 3, "hash", trainings[0])
    store.close()
    store.close()
    assert [each.closed for each in trainings] == [1, 1, 1, 1, 1]
