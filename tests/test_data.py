"""Data sets: what is held out, what a batch looks like, and what is said about files that are absent or damaged."""

import gzip
import hashlib
import io
import os
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from halving.data import airfoil, cifar10, digits, fashion_mnist, mnist, split_data
from halving.data.base import Data, channels_last, moments, stratified_order
from halving.data.keys import key
from halving.data.torchvision import IDX, load_cifar10, shift_and_mirror
from halving.data.torchvision_shim import allow_import
from halving.errors import UserError
from halving.targets import instantiate


@pytest.fixture
def data_files() -> Path:
    folder = Path(os.environ.get("HALVING_DATA", "data"))
    if not (folder / "FashionMNIST" / "raw").is_dir() or not (folder / "airfoil_self_noise.dat").is_file():
        pytest.skip(f"Fashion-MNIST and the airfoil table are not in {folder}: set HALVING_DATA")
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unplugged(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("socket.getaddrinfo", unplugged)


def images(count: int, channels: int = 1, side: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i holds i in all of its pixels, so that an example can be recognised; classes take turns."""
    numbers = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)
    return numbers.expand(count, channels, side, side).contiguous(), torch.arange(count) % 5


def made(count: int = 100, **settings: object) -> Data:
    return split_data(*images(count), *images(20), **{"batch_size": 16, "seed": 1} | settings)  # pyright: ignore


def members(split: object) -> list[int]:
    return sorted(split.inputs[:, 0, 0, 0].tolist())  # pyright: ignore[reportAttributeAccessIssue]


@given(st.lists(st.integers(0, 2**40), max_size=4), st.lists(st.integers(0, 2**40), max_size=4))
def test_keys_differ_where_parts_differ(a: list[int], b: list[int]) -> None:
    assert 0 <= key(*a) < 2**63
    assert (key(*a) == key(*b)) == (a == b)


def test_key_tells_trailing_zeros_apart() -> None:
    assert len({key(1), key(1, 0), key(1, 0, 0), key(0, 1)}) == 4


def test_split_partitions_the_training_set_in_the_proportions_of_the_classes() -> None:
    data = made(validation=0.2)
    assert sorted(members(data.train) + members(data.validation)) == list(range(100))
    assert len(data.validation) == 20
    assert all(3 <= count <= 5 for count in data.validation.targets.bincount().tolist())
    assert torch.equal(data.test.inputs, images(20)[0])
    assert torch.equal(data.train.targets, data.train.inputs[:, 0, 0, 0] % 5)
    assert members(made(validation=0.2, seed=2).validation) != members(data.validation)
    assert len(made(validation=7).validation) == 7


def test_validation_test_is_the_books_way() -> None:
    data = made(validation="test")
    assert data.validation is data.test
    assert members(data.train) == list(range(100))


def test_smaller_subset_is_part_of_larger_and_leaves_validation_alone() -> None:
    small, large = made(train_samples=10), made(train_samples=30)
    assert len(small.train) == 10
    assert set(members(small.train)) < set(members(large.train))
    assert members(small.validation) == members(large.validation) == members(made().validation)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=4), st.integers(0, 99), st.data())
def test_every_run_of_the_stratified_order_keeps_proportions(sizes: list[int], seed: int, data: st.DataObject) -> None:
    strata = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    total = len(strata)
    order = stratified_order(strata, seed)
    assert sorted(order.tolist()) == list(range(total))
    begin = data.draw(st.integers(0, total))
    end = data.draw(st.integers(begin, total))
    taken = strata[order[begin:end]].bincount(minlength=len(sizes)).tolist()
    for size, count in zip(sizes, taken, strict=True):
        # Of the places in [x, y) a stratum holds (y - x) * size of them to within 2; so does the sum, to within 2 each.
        assert abs(count - size * (end - begin) / total) <= 2 + 2 * len(sizes) * size / total


def test_order_is_the_same_for_all_trials_and_new_each_epoch() -> None:
    one, other = made(batch_size=16), made(batch_size=7)
    assert torch.equal(one.order(3), other.order(3))
    assert sorted(one.order(3).tolist()) == list(range(80))
    assert not torch.equal(one.order(3), one.order(4))
    assert not torch.equal(one.order(3), made(seed=2).order(3))


def test_batches_are_normalised_by_the_training_part_and_complete() -> None:
    data = made(train_samples=50, batch_size=16)
    order = data.order(1)
    batches = list(data.batches(data.train, order))
    assert [len(targets) for _, targets in batches] == [16, 16, 16, 2]
    assert torch.equal(torch.cat([targets for _, targets in batches]), data.train.targets[order])
    seen = torch.cat([inputs for inputs, _ in batches])
    pixels = data.train.inputs[order].double()
    assert torch.allclose(seen.double(), (pixels - pixels.mean()) / pixels.std(correction=0), atol=1e-5)
    assert [len(targets) for _, targets in data.batches(data.test, size=15)] == [15, 5]


def test_airfoil_without_a_test_set_is_the_books(data_files: Path) -> None:
    """All rows are trained on and tested, and whitened over all of them."""
    data = airfoil(data_dir=data_files, batch_size=32, held_out=False, validation="test")
    assert len(data.train) == len(data.test) == 1503 and data.validation is data.test
    assert data.train.targets.mean().item() == pytest.approx(0, abs=1e-5)
    assert sorted(data.train.targets.flatten().tolist()) == sorted(data.test.targets.flatten().tolist())
    part = airfoil(data_dir=data_files, batch_size=32, held_out=False, validation="test", train_samples=1500)
    assert len(part.train) == 1500


@pytest.mark.parametrize(
    ("count", "size", "lengths"),
    [
        (81, 10, [10] * 7 + [11]),
        (82, 10, [10] * 8 + [2]),
        (11, 10, [11]),
        (10, 10, [10]),
        (3, 1, [1] * 3),
        (1, 10, [1]),
    ],
)
def test_one_example_left_over_joins_the_batch_before(count: int, size: int, lengths: list[int]) -> None:
    data = replace(made(count, validation="test"), batch_size=size)
    for order in (None, data.order(1)):
        batches = [targets for _, targets in data.batches(data.train, order)]
        assert list(map(len, batches)) == lengths
        assert torch.equal(torch.cat(batches), data.train.targets if order is None else data.train.targets[order])


def test_odd_numbers_are_taken_as_what_they_are() -> None:
    assert len(made(validation=np.int64(30), train_samples=np.int64(20), batch_size=np.int32(500)).validation) == 30
    assert len(made(validation=np.float32(0.25)).validation) == 25
    inputs = np.arange(10, dtype=np.uint8)[:, None]
    data = split_data(inputs, np.arange(10, dtype=np.uint16), inputs, list(range(10)), batch_size=4, validation="test")
    assert data.train.inputs.dtype == torch.float32 and sorted(data.train.targets.tolist()) == list(range(10))
    alone = made(train_samples=1)
    assert [len(targets) for _, targets in alone.batches(alone.train, alone.order(1))] == [1]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_channels_last_in_memory_too(channels: int) -> None:
    plain = torch.arange(2 * channels * 20, dtype=torch.float32).view(2, channels, 4, 5)
    laid_out = channels_last(plain)
    assert torch.equal(laid_out, plain)
    assert laid_out.stride() == (channels * 20, 1, channels * 5, channels)


def test_moments_of_images_and_features() -> None:
    pixels = torch.randint(0, 256, (50, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = moments(pixels)
    by_channel = pixels.double().transpose(0, 1).flatten(1)
    assert torch.allclose(mean.double(), by_channel.mean(1)) and torch.allclose(std.double(), by_channel.std(1, False))
    mean, std = moments(torch.tensor([[1.0, 7.0], [3.0, 7.0]]))
    assert mean.tolist() == [2.0, 7.0] and std.tolist() == [1.0, 1.0]


def test_features_and_numbers_keep_their_kinds() -> None:
    features, numbers = np.arange(20.0).reshape(10, 2), np.arange(10.0)
    data = split_data(features, numbers, features, numbers, batch_size=4, classification=False)
    inputs, targets = next(data.batches(data.train, data.order(1)))
    assert inputs.dtype == targets.dtype == torch.float32
    assert inputs.shape == (4, 2) and targets.shape == (4, 1)
    before = data.train.inputs.clone()
    list(data.batches(data.train))
    assert torch.equal(data.train.inputs, before)


def test_augmentation_shifts_by_at_most_four_and_follows_its_stream() -> None:
    pixels = torch.randint(1, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = shift_and_mirror(pixels, torch.Generator().manual_seed(5))
    assert torch.equal(out, shift_and_mirror(pixels, torch.Generator().manual_seed(5)))
    assert not torch.equal(out, shift_and_mirror(pixels, torch.Generator().manual_seed(6)))
    padded = torch.nn.functional.pad(pixels, (4,) * 4)
    mirrored = 0
    for i in range(64):
        crops = [padded[i, :, y : y + 8, x : x + 8] for y in range(9) for x in range(9)]
        straight = any(torch.equal(out[i], crop) for crop in crops)
        flipped = any(torch.equal(out[i], crop.flip(2)) for crop in crops)
        assert straight or flipped
        mirrored += flipped
    assert 16 < mirrored < 48


def test_only_training_batches_are_augmented() -> None:
    data = made(augment=lambda batch, _: torch.zeros_like(batch), validation="test")
    shown = [next(data.batches(data.train, augmentation=a))[0].std().item() for a in (None, data.augmentation(1))]
    assert shown[0] > 0 and shown[1] == 0
    streams = [torch.rand(2, generator=data.augmentation(epoch)).tolist() for epoch in (1, 1, 2)]
    assert streams[0] == streams[1] != streams[2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"batch_size": 64.0}, "data.batch_size=64.0"),
        ({"train_samples": 81}, "data.train_samples=81: the training part has 80 examples"),
        ({"train_samples": 0}, "data.train_samples=0"),
        ({"validation": 1.0}, "data.validation=1.0"),
        ({"validation": 0}, "data.validation=0"),
        ({"validation": 100}, "data.validation=100"),
        ({"validation": True}, "data.validation=True"),
        ({"validation": None}, "data.validation=None"),
        ({"validation": float("nan")}, "data.validation=nan"),
        ({"validation": [0.2]}, "data.validation=.*0.2"),
        ({"metrics": {"error": max}}, "metrics: error is measured anyway"),
        ({"validation": "train"}, "data.validation=train"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        made(**settings)


def test_unfit_tensors_are_named() -> None:
    good = images(10)
    for bad, said in [
        ((good[0].float(), good[1]), "train_inputs: torch.float32"),
        ((good[0], good[1][:9]), "train_targets: 9 of them for 10"),
        ((good[0], good[1] - 1), "train_targets"),
        ((good[0], good[1].float()), "train_targets: torch.float32.*integers"),
        ((good[0], good[1][:, None]), r"train_targets: torch.int64 of shape \[10, 1\]"),
        ((good[0][:0], good[1][:0]), "train_targets: 0 of them"),
        ((torch.full((10, 2), torch.nan), good[1]), "train_inputs: there are NaN"),
        ((images(10, side=5)[0], good[1]), "test_inputs: examples of shape"),
    ]:
        with pytest.raises(UserError, match=said):
            split_data(*bad, *good, batch_size=2)


def test_digits_come_without_files_and_trials_share_them() -> None:
    data = digits(batch_size=64, shape=[1, 28, 28], outputs=10)
    assert (len(data.train), len(data.validation), len(data.test)) == (1150, 288, 359)
    assert data.train.inputs.dtype == torch.uint8 and data.train.inputs.shape[1:] == (1, 28, 28)
    assert int(data.train.inputs.max()) > 240
    again = digits(batch_size=32, shape=[1, 28, 28], outputs=10)
    assert again.batch_size == 32 and again.train is data.train
    assert torch.equal(digits(batch_size=1, seed=9).test.inputs, data.test.inputs)


def test_configuration_that_differs_from_the_data_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.shape=\[3, 32, 32\]: this data set has \[1, 28, 28\]"):
        digits(batch_size=64, shape=[3, 32, 32])
    with pytest.raises(UserError, match=r"data.outputs=2: this data set has 10"):
        digits(batch_size=64, outputs=2)


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[1] / "conf" / "data").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_option_accepts_the_keys_of_its_file(file: Path, data_files: Path) -> None:
    root = {"data_dir": str(data_files), "device": "cpu", "seed": 0, "data": OmegaConf.load(file)}
    config = OmegaConf.to_container(OmegaConf.create(root), resolve=True)["data"]  # pyright: ignore
    assert file.read_text().startswith("# python train.py data=")
    try:
        data = instantiate(config, "data")
    except UserError as error:
        assert "could not be downloaded" in str(error)
    else:
        assert list(data.train.inputs.shape[1:]) == config["shape"]


def test_fashion_mnist_as_torchvision_lays_it_out(data_files: Path) -> None:
    data = fashion_mnist(data_dir=data_files, batch_size=128, shape=[1, 28, 28], outputs=10)
    assert (len(data.train), len(data.validation), len(data.test)) == (50000, 10000, 10000)
    assert data.validation.targets.bincount().tolist() == pytest.approx([1000] * 10, abs=2)
    assert data.mean.item() == pytest.approx(72.9, abs=0.5) and data.std.item() == pytest.approx(90.0, abs=0.5)
    assert data.test.targets[:5].tolist() == [9, 2, 1, 1, 6]


def test_airfoil_is_whitened(data_files: Path) -> None:
    data = airfoil(data_dir=data_files, batch_size=32, shape=[5], outputs=1)
    assert (len(data.train), len(data.validation), len(data.test)) == (962, 241, 300)
    targets = torch.cat([data.train.targets, data.validation.targets])
    assert targets.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert targets.square().mean().item() == pytest.approx(1.0, abs=1e-5)
    inputs = torch.cat([inputs for inputs, _ in data.batches(data.train)])
    assert torch.allclose(inputs.square().mean(0), torch.ones(5), atol=1e-4)


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        (fashion_mnist, "train-images-idx3-ubyte"),
        (mnist, "MNIST/raw"),
        (cifar10, "cifar-10"),
        (airfoil, "airfoil_self"),
    ],
)
def test_absent_files_that_cannot_be_fetched(
    option: object, wanted: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as caught:
        option(data_dir=tmp_path / "here", batch_size=8)  # pyright: ignore[reportCallIssue]
    for word in (str(tmp_path / "here"), wanted, "data=digits", "unreachable"):
        assert word in str(caught.value)
    assert not list(tmp_path.rglob("*.*"))
    assert capfd.readouterr() == ("", "")


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda content: content[:-1], "bytes instead of"),
        (lambda content: b"\1" + content[1:], "header"),
        (lambda _: b"", "header"),
        (flip_a_bit, "SHA-256"),
    ],
)
def test_damaged_fashion_mnist_is_named(harm: object, said: str, data_files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for file in IDX:
        shutil.copy(data_files / "FashionMNIST" / "raw" / file, folder / file)
    victim = folder / "t10k-images-idx3-ubyte"
    victim.write_bytes(harm(victim.read_bytes()))  # pyright: ignore[reportCallIssue]
    with pytest.raises(UserError, match=f"{victim} is damaged.*{said}"):
        fashion_mnist(data_dir=tmp_path, batch_size=8)


def test_mnist_label_above_nine_is_damage(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file, (magic, sizes) in IDX.items():
        header = np.array((magic, *sizes), dtype=">u4").tobytes()
        (folder / file).write_bytes(header + bytes([11 if "labels" in file else 0]) * int(np.prod(sizes)))
    with pytest.raises(UserError, match="train-labels-idx1-ubyte is damaged: it has a label 11"):
        mnist(data_dir=tmp_path, batch_size=8)


def packed_mnist(data_dir: Path) -> Path:
    """MNIST as four .gz, all black images of zeros."""
    folder = data_dir / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file, (magic, sizes) in IDX.items():
        content = np.array((magic, *sizes), dtype=">u4").tobytes() + bytes(int(np.prod(sizes)))
        (folder / f"{file}.gz").write_bytes(gzip.compress(content, 1))
    return folder


def test_gz_files_are_unpacked_where_they_lie_or_else_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = packed_mnist(tmp_path / "writable")
    packed = {f"{file}.gz" for file in IDX}
    assert len(mnist(data_dir=tmp_path / "writable", batch_size=8).test) == 10000
    assert {file.name for file in folder.iterdir()} == packed | set(IDX)

    def read_only(path: Path, content: bytes) -> int:
        raise OSError("Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", read_only)
    for file in IDX:
        (folder / file).unlink()
    (tmp_path / "writable").rename(tmp_path / "elsewhere")
    assert len(mnist(data_dir=tmp_path / "elsewhere", batch_size=8).test) == 10000
    assert {file.name for file in (tmp_path / "elsewhere" / "MNIST" / "raw").iterdir()} == packed


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda content: content[: len(content) // 2], "cannot be unpacked"),
        (lambda content: b"<html>", "cannot be unpacked"),
        (lambda content: gzip.compress(gzip.decompress(content)[:-1], 1), "it has 60007 bytes instead of 60008"),
    ],
)
def test_a_damaged_gz_is_named_and_not_unpacked(harm: object, said: str, tmp_path: Path) -> None:
    folder = packed_mnist(tmp_path)
    victim = folder / "train-labels-idx1-ubyte.gz"
    victim.write_bytes(harm(victim.read_bytes()))  # pyright: ignore[reportCallIssue]
    with pytest.raises(UserError, match=f"{victim} is damaged: .*{said}"):
        mnist(data_dir=tmp_path, batch_size=8)
    assert not (folder / "train-labels-idx1-ubyte").exists()


@pytest.mark.parametrize("writable", [True, False])
def test_the_archive_of_cifar10_is_unpacked(writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small one of the same layout: two batches of three images each."""
    allow_import()
    from torchvision.datasets import CIFAR10

    part = pickle.dumps({"data": np.arange(3 * 3072, dtype=np.uint8).reshape(3, 3072), "labels": [0, 1, 2]})
    meta = pickle.dumps({"label_names": ["a", "b", "c"]})
    archive = tmp_path / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as packed:
        for name, content in (("data_batch_1", part), ("test_batch", part), ("batches.meta", meta)):
            member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))

    def md5(content: bytes) -> str:
        return hashlib.md5(content, usedforsecurity=False).hexdigest()

    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", md5(part)]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(part)]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5(meta)})
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive.read_bytes()))
    monkeypatch.setattr(os, "access", lambda *_: writable)
    images, targets, _, _ = load_cifar10(tmp_path)
    assert images.shape == (3, 3, 32, 32) and targets.tolist() == [0, 1, 2]
    assert (tmp_path / CIFAR10.base_folder / "test_batch").exists() == writable

    load_cifar10.cache_clear()
    shutil.rmtree(tmp_path / CIFAR10.base_folder, ignore_errors=True)
    archive.write_bytes(flip_a_bit(archive.read_bytes()))
    with pytest.raises(UserError, match=f"{archive} is damaged"):
        load_cifar10(tmp_path)


def test_damaged_cifar10_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        (folder / file).write_bytes(b"no pickle")
    with pytest.raises(UserError, match="data_batch_1 is damaged"):
        load_cifar10(tmp_path)


def test_damaged_airfoil_is_named(tmp_path: Path) -> None:
    (tmp_path / "airfoil_self_noise.dat").write_text("800\t0\n")
    with pytest.raises(UserError, match=r"airfoil_self_noise.dat is damaged"):
        airfoil(data_dir=tmp_path, batch_size=8)
