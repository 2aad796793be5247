"""Image data sets that torchvision can fetch: MNIST, Fashion-MNIST, CIFAR-10."""

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from halving.data.download import impatient, keep
from halving.data.option import Source, option
from halving.data.torchvision_shim import allow_import
from halving.environment import expanded
from halving.errors import UserError

Name = Literal["FashionMNIST", "MNIST", "CIFAR10"]

IDX = {
    "train-images-idx3-ubyte": (2051, (60000, 28, 28)),
    "train-labels-idx1-ubyte": (2049, (60000,)),
    "t10k-images-idx3-ubyte": (2051, (10000, 28, 28)),
    "t10k-labels-idx1-ubyte": (2049, (10000,)),
}
FASHION_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@option(validation=10000)
def fashion_mnist(*, data_dir: str | Path) -> Source:
    """Return Fashion-MNIST: 60,000 + 10,000 grey images 28 x 28 of ten kinds of clothing.

    They lie in `data_dir`/FashionMNIST/raw; where only the .gz of a file does, it is unpacked.

    Raises UserError where the files are absent and cannot be fetched, where one is damaged (by its SHA-256), and as
    `option` says. Source: Xiao, Rasul and Vollgraf, 2017.
    """
    return Source(load_idx, ("FashionMNIST", expanded(data_dir)))


@option(validation=10000)
def mnist(*, data_dir: str | Path) -> Source:
    """Return MNIST: 60,000 + 10,000 grey images 28 x 28 of the ten digits, in `data_dir`/MNIST/raw, as they are or .gz.

    Raises UserError where the files are absent and cannot be fetched, where one is damaged (by its header, length and
    labels), and as `option` says. Source: LeCun, Bottou, Bengio and Haffner, 1998.
    """
    return Source(load_idx, ("MNIST", expanded(data_dir)))


@option(validation=5000)
def cifar10(*, data_dir: str | Path, augment: bool = True) -> Source:
    """Return CIFAR-10: 50,000 + 10,000 colour images 32 x 32 of 10 classes, in `data_dir`/cifar-10-batches-py.

    cifar-10-python.tar.gz in `data_dir` is unpacked. With `augment`, training images are shifted by up to four pixels
    and mirrored at random.

    Raises UserError where the files are absent and cannot be fetched, where one is damaged (by its MD5), and as
    `option` says. Source: Krizhevsky, 2009.
    """
    return Source(load_cifar10, (expanded(data_dir),), augment=shift_and_mirror if augment else None)


def shift_and_mirror(images: Tensor, generator: torch.Generator, most: int = 4) -> Tensor:
    """Crop images (b, c, h, w) at random from ones padded with `most` black pixels, and mirror half of them.

    Source: He et al., Deep Residual Learning, 2016, section 4.2.
    """
    count, channels, height, width = images.shape
    device = images.device
    padded = torch.nn.functional.pad(images, (most,) * 4)
    down, right = torch.randint(0, 2 * most + 1, (2, count, 1), generator=generator, device=device)
    mirrored = torch.randint(0, 2, (count, 1), generator=generator, device=device, dtype=torch.bool)
    column = torch.arange(width, device=device)
    columns = right + torch.where(mirrored, column.flip(0), column)
    rows = down + torch.arange(height, device=device)
    image = torch.arange(count, device=device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=device).view(1, -1, 1, 1)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


@cache
def load_idx(name: Literal["FashionMNIST", "MNIST"], data_dir: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    folder = data_dir / name / "raw"
    if not all((folder / file).is_file() or (folder / f"{file}.gz").is_file() for file in IDX):
        download(name, data_dir, f"the four files {', '.join(IDX)} (or their .gz) into {folder}")
    train_images, train_labels, test_images, test_labels = (read_idx(folder / file, name) for file in IDX)
    return train_images[:, None], train_labels.long(), test_images[:, None], test_labels.long()


def read_idx(path: Path, name: str) -> Tensor:
    """Read one file of MNIST's format: a magic number, the sizes (all big-endian, 4 bytes), then bytes.

    Where only its .gz is there, it is unpacked beside it, or in memory if that cannot be written.
    """
    source = path if path.is_file() else path.with_name(f"{path.name}.gz")
    content = source.read_bytes()
    if source != path:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise damaged(source, f"it cannot be unpacked ({error})") from error
    magic, sizes = IDX[path.name]
    header = np.array((magic, *sizes), dtype=">u4").tobytes()
    if not content.startswith(header):
        raise damaged(source, f"its header is not that of {' x '.join(map(str, sizes))} bytes")
    if len(content) != len(header) + np.prod(sizes):
        raise damaged(source, f"it has {len(content)} bytes instead of {len(header) + np.prod(sizes)}")
    if name == "FashionMNIST" and hashlib.sha256(content).hexdigest() != FASHION_SHA256[path.name]:
        raise damaged(source, "its SHA-256 is wrong")
    values = np.frombuffer(content, np.uint8, offset=len(header)).reshape(sizes)
    if len(sizes) == 1 and values.max() > 9:
        raise damaged(source, f"it has a label {values.max()}, above 9")
    if source != path:
        with suppress(OSError):
            keep(path, content)
    return torch.from_numpy(values.copy())


@cache
def load_cifar10(data_dir: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    allow_import()
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    folder = data_dir / CIFAR10.base_folder
    sums = dict((*CIFAR10.train_list, *CIFAR10.test_list))
    sums[CIFAR10.meta["filename"]] = CIFAR10.meta["md5"]
    archive = data_dir / CIFAR10.filename
    whole = all((folder / file).is_file() for file in sums)
    if not whole and archive.is_file():
        if not check_integrity(archive, CIFAR10.tgz_md5):
            raise damaged(archive, "its MD5 is wrong")
        writable = os.access(data_dir, os.W_OK)
        with TemporaryDirectory(dir=data_dir if writable else None, prefix=".CIFAR10-") as unpacked:
            try:
                with tarfile.open(archive) as packed:
                    packed.extractall(unpacked, filter="data")
                if writable:
                    settle(Path(unpacked), data_dir)
            except OSError as error:
                raise UserError(f"{archive} cannot be unpacked ({error}); make room, or unpack it yourself") from error
            if not writable:
                return load_cifar10(Path(unpacked))
    elif not whole:
        download("CIFAR10", data_dir, f"cifar-10-python.tar.gz into {data_dir}, or its files into {folder}")
    for file, md5 in sums.items():
        if not check_integrity(folder / file, md5):
            raise damaged(folder / file, "its MD5 is wrong")
    train, test = CIFAR10(data_dir, train=True), CIFAR10(data_dir, train=False)
    images = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in (train, test)]
    targets = [torch.tensor(part.targets) for part in (train, test)]
    return images[0], targets[0], images[1], targets[1]


def download(name: Name, data_dir: Path, wanted: str) -> None:
    """Fetch a data set by torchvision, silently, into a folder of its own, then move its files to their place.

    Raises UserError where that fails: `wanted` says what to put where.
    """
    allow_import()
    from torchvision import datasets

    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=data_dir, prefix=f".{name}-") as folder:
            with impatient(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                getattr(datasets, name)(folder, download=True)
            settle(Path(folder), data_dir)
    except (OSError, RuntimeError, EOFError) as error:
        cause = " ".join(str(error).split())
        raise UserError(
            f"{name} is not in {data_dir} and could not be downloaded ({cause}). "
            f"Put {wanted}, or set data_dir to where they are, or go on with data=digits, which needs no files."
        ) from error


def settle(folder: Path, data_dir: Path) -> None:
    """Move what was unpacked to its place, file by file: an interruption or another worker leaves none torn."""
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix != ".gz":
            place = data_dir / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)


def damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged: {what}. Delete it, so that it is downloaded again, or put a good copy there.")
