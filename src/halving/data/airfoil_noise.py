"""Noise of airfoils in a wind tunnel: a small regression."""

import hashlib
from functools import cache
from io import BytesIO
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import torch
from torch import Tensor

from halving.data.base import moments, stratified_order
from halving.data.download import impatient, keep
from halving.data.keys import key
from halving.data.option import Source, option
from halving.environment import expanded
from halving.errors import UserError

FILE = "airfoil_self_noise.dat"
URL = f"http://d2l-data.s3-accelerate.amazonaws.com/{FILE}"
SHA1 = "76e5be1548fd8222e5074cf0faae75edff8cf93f"


@option(validation=0.2)
def airfoil(*, data_dir: str | Path, held_out: bool = True) -> Source:
    """Return NASA's 1,503 measurements: 5 features, and the sound pressure level, a fixed fifth of them for the test.

    The target is whitened by the mean and deviation of the four fifths that are not for the test, so a mean squared
    error of 1 is that of predicting the mean. Where nothing is `held_out`, the test is on the very rows that are
    trained on, as in the book.

    Raises UserError where `data_dir`/airfoil_self_noise.dat is absent and cannot be fetched, where it is damaged (by
    its SHA-1), and as `option` says. Source: Brooks, Pope and Marcolini, NASA RP-1218, 1989; D2L, chapter "Minibatch
    Stochastic Gradient Descent".
    """
    return Source(load, (expanded(data_dir), held_out), classification=False)


@cache
def load(data_dir: Path, held_out: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    path = data_dir / FILE
    content = path.read_bytes() if path.is_file() else download(path)
    if hashlib.sha1(content, usedforsecurity=False).hexdigest() != SHA1:
        raise UserError(f"{path} is damaged: its SHA-1 is wrong. Delete it, so that it is downloaded again from {URL}.")
    table = torch.from_numpy(np.loadtxt(BytesIO(content)))
    order = stratified_order(torch.zeros(len(table), dtype=torch.int64), key(0))
    fifth = len(order) // 5
    test, train = (table[order[:fifth]], table[order[fifth:]]) if held_out else (table, table)
    mean, std = (moment.double() for moment in moments(train[:, 5:]))
    return train[:, :5], (train[:, 5:] - mean) / std, test[:, :5], (test[:, 5:] - mean) / std


def download(path: Path) -> bytes:
    """Fetch the table, keep it at `path` and return it."""
    try:
        with impatient(), urlopen(URL) as response:
            content = response.read()
        path.parent.mkdir(parents=True, exist_ok=True)
        keep(path, content)
    except OSError as error:
        raise UserError(
            f"there is no {path} and it could not be downloaded ({error}). "
            f"Put the file of {URL} there, or set data_dir to where it is, "
            f"or go on with data=digits, which needs no files."
        ) from error
    return content
