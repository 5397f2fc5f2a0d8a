"""How close is close enough."""

from collections.abc import Sequence

from torch import Tensor


def require_close(
    found: Tensor | Sequence[Tensor], expected: Tensor | Sequence[Tensor], error: float
) -> None:
    """Each tensor differs by ``error`` of its largest value at most; none is broken."""
    pairs = (
        [(found, expected)]
        if isinstance(found, Tensor)
        else list(zip(found, expected, strict=True))
    )
    for a, b in pairs:
        assert a.shape == b.shape
        a, b = a.detach().double(), b.detach().double()
        assert float((a - b).abs().max()) <= error * float(b.abs().max())
