"""The shape of an image, or a clear refusal."""

from collections.abc import Sequence

from halving.errors import UserError


def image_shape(shape: Sequence[int], model: str, least: int) -> tuple[int, int, int]:
    """Return (channels, height, width); raise UserError unless `shape` is that of images of `least` pixels a side."""
    match tuple(shape):
        case channels, height, width if min(height, width) >= least:
            return channels, height, width
    raise UserError(
        f"model={model} needs images (channels, height, width) of at least {least} x {least} pixels, but the data's "
        f"inputs have shape {list(shape)} (data.shape); choose model=mlp or model=softmax, or image data"
    )
