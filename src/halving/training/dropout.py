"""Dropout whose masks depend on a key alone, so that training resumes bit for bit."""

import numpy as np
import torch
from torch import Tensor, nn

from halving.errors import UserError

FULL_RANGE = -(2**63)


class Dropout(nn.Module):
    """Zeroes each unit with probability `p` and scales the others by 1 / (1 - p); the identity in evaluation.

    Srivastava et al., "Dropout" (JMLR 2014), in the inverted form of D2L, chapter "Dropout". The masks come from a
    generator of the layer's own, on its input's device: after `key(seed)` the n-th mask of a given size is always the
    same on that kind of device, whatever else draws random numbers and however many threads run. Before the first key
    it is 0. The generator is not part of the state dict: the training loop gives each layer a new key at each epoch.

    One random byte per unit decides, therefore `p` is rounded to the nearest 1/256 (at most 255/256), and the scale
    is the inverse of the rounded keep probability: the mean is kept exactly.

    Shapes: any -> the same. Raises UserError unless 0 <= p < 1.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p < 1:
            raise UserError(f"dropout={p!r} must be a probability in [0, 1): 0.0 drops nothing")
        self.p = p
        self.dropped = min(round(p * 256), 255)
        self.scale = 256 / (256 - self.dropped)
        self._seed = 0
        self._generator: torch.Generator | None = None

    def key(self, seed: int) -> None:
        """Begin a new sequence of masks, the one that belongs to `seed` (any non-negative integer)."""
        self._seed = seed
        self._generator = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.dropped == 0:
            return x
        drawn = torch.empty(words(x.numel()), dtype=torch.int64, device=x.device)
        self.draw(drawn)
        kept = drawn.view(torch.uint8)[: x.numel()].view(x.shape) >= self.dropped
        return x * kept.to(x.dtype).mul_(self.scale)

    def draw(self, out: Tensor) -> None:
        """Fill int64 words with random bytes, of which each of the next mask's units takes one."""
        if self._generator is None or self._generator.device != out.device:
            self._generator = generator(self._seed, out.device)
        out.random_(FULL_RANGE, None, generator=self._generator)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def generator(seed: int, device: torch.device) -> torch.Generator:
    """A generator for `seed` on `device`."""
    # torch's CPU generator looks at the low 32 bits of its seed only: hash all of ours into them.
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))


def words(count: int) -> int:
    """Return how many draws of eight bytes `count` units take."""
    return (count + 7) // 8
