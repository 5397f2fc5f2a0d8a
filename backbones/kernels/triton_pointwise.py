"""What a ConvNeXt block on a GPU computes beside its matrix products and its convolution, in Triton.

Each function makes one pass over its maps. They compute in float32 and store in the dtype of the result;
sums over pixels are kept for each program and added up afterwards, the same bits every time. Rows are
pixels, ``images`` says how many images they belong to.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Pixels whose sums one program keeps, pixels and channels of a tile.
_SPAN, _TILE_ROWS, _TILE_COLUMNS = 512, 16, 128
# Elements of the tile of a norm, whose rows are whole; programs of its backward pass.
_NORM_TILE, _NORM_PROGRAMS = 2048, 512


@triton.jit
def _norm_kernel(
    x, weight, bias, out, rows, columns, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < columns)
    at = row * columns + column
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value, 1)[:, None] / columns
    value = tl.where(inside, value - mean, 0.0)
    value *= tl.rsqrt(tl.sum(value * value, 1)[:, None] / columns + eps)
    scale = tl.load(weight + column, mask=column < columns, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)
    tl.store(out + at, (value * scale + shift).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _norm_back_kernel(
    grad, x, weight, out, sums, rows, columns, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    column = tl.arange(0, COLUMNS)[None, :]
    there = column < columns
    scale = tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
    # summed over rows at the end: threads exchange their sums once
    grad_scale = tl.zeros((ROWS, COLUMNS), tl.float32)
    grad_shift = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = (tile * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
        inside = (row < rows) & there
        at = row * columns + column
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        towards = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        mean = tl.sum(value, 1)[:, None] / columns
        value = tl.where(inside, value - mean, 0.0)
        rstd = tl.rsqrt(tl.sum(value * value, 1)[:, None] / columns + eps)
        value *= rstd
        grad_scale += towards * value
        grad_shift += towards
        towards *= scale
        along = tl.sum(towards * value, 1)[:, None] / columns
        back = (towards - tl.sum(towards, 1)[:, None] / columns - value * along) * rstd
        tl.store(out + at, back.to(out.dtype.element_ty), mask=inside)
    into = sums + tl.program_id(0) * 2 * columns + column
    tl.store(into, tl.sum(grad_scale, 0)[None, :], mask=there)
    tl.store(into + columns, tl.sum(grad_shift, 0)[None, :], mask=there)


@triton.jit
def _gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _slope_of_gelu(x):
    density = 0.3989422804014327 * tl.exp(-0.5 * x * x)
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * density


@triton.jit
def _tile(span, rows, columns, SPAN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """First row of this program's span within its image, offset of the image, columns."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    image = tl.program_id(2).to(tl.int64) * rows * columns
    return span * SPAN, image, column


@triton.jit
def _gelu_kernel(
    x, out, sums, rows, columns, SPAN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    first, image, column = _tile(tl.program_id(0), rows, columns, SPAN, ROWS, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, SPAN, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (column < columns)
        at = image + row.to(tl.int64) * columns + column
        value = _gelu(tl.load(x + at, mask=inside, other=0.0).to(tl.float32))
        stored = value.to(out.dtype.element_ty)
        tl.store(out + at, stored, mask=inside)
        value = stored.to(tl.float32)
        total += value * value
    into = sums + (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)) * columns + column
    tl.store(into, tl.sum(total, 0)[None, :], mask=column < columns)


@triton.jit
def _gelu_back_kernel(
    x,
    grad,
    pull,
    value_out,
    sums,
    rows,
    columns,
    PULLS: tl.constexpr,
    KEEPS: tl.constexpr,
    SPAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first, image, column = _tile(tl.program_id(0), rows, columns, SPAN, ROWS, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    if PULLS:
        weight = tl.load(
            pull + tl.program_id(2) * columns + column, mask=column < columns, other=0.0
        )
    for start in range(0, SPAN, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (column < columns)
        at = image + row.to(tl.int64) * columns + column
        before = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        towards = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        if KEEPS:
            tl.store(value_out + at, _gelu(before).to(value_out.dtype.element_ty), mask=inside)
        if PULLS:
            towards += _gelu(before) * weight
        towards *= _slope_of_gelu(before)
        tl.store(grad + at, towards.to(grad.dtype.element_ty), mask=inside)
        total += towards
    into = sums + (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)) * columns + column
    tl.store(into, tl.sum(total, 0)[None, :], mask=column < columns)


@triton.jit
def _add_kernel(
    x,
    branch,
    factor,
    shift,
    out,
    rows,
    columns,
    SCALES: tl.constexpr,
    SHIFTS: tl.constexpr,
    SPAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first, image, column = _tile(tl.program_id(0), rows, columns, SPAN, ROWS, COLUMNS)
    there = column < columns
    of_image = tl.program_id(2) * columns + column
    if SCALES:
        scale = tl.load(factor + of_image, mask=there, other=0.0)
    if SHIFTS:
        move = tl.load(shift + of_image, mask=there, other=0.0)
    for start in range(0, SPAN, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & there
        at = image + row.to(tl.int64) * columns + column
        added = tl.load(branch + at, mask=inside, other=0.0).to(tl.float32)
        if SCALES:
            added *= scale
        if SHIFTS:
            added += move
        total = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + added
        tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_back_kernel(
    grad,
    branch,
    factor,
    out,
    sums,
    rows,
    columns,
    SCALES: tl.constexpr,
    COMPARES: tl.constexpr,
    SPAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first, image, column = _tile(tl.program_id(0), rows, columns, SPAN, ROWS, COLUMNS)
    there = column < columns
    if SCALES:
        scale = tl.load(factor + tl.program_id(2) * columns + column, mask=there, other=0.0)
    along = tl.zeros((ROWS, COLUMNS), tl.float32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, SPAN, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & there
        at = image + row.to(tl.int64) * columns + column
        towards = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        total += towards
        if COMPARES:
            value = tl.load(branch + at, mask=inside, other=0.0).to(tl.float32)
            along += towards * value
        if SCALES:
            towards *= scale
        tl.store(out + at, towards.to(out.dtype.element_ty), mask=inside)
    program = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    into = sums + program * 2 * columns + column
    tl.store(into, tl.sum(along, 0)[None, :], mask=there)
    tl.store(into + columns, tl.sum(total, 0)[None, :], mask=there)


def _shape_of_norm(columns: int) -> dict[str, int]:
    width = triton.next_power_of_2(columns)
    rows = max(1, _NORM_TILE // width)
    return {'ROWS': rows, 'COLUMNS': width, 'num_warps': 4 if rows * width <= _NORM_TILE else 8}


_SHAPE = {'SPAN': _SPAN, 'ROWS': _TILE_ROWS, 'COLUMNS': _TILE_COLUMNS}


def _grid(x: Tensor, images: int) -> tuple[int, int, int]:
    rows, columns = x.shape
    return triton.cdiv(rows // images, _SPAN), triton.cdiv(columns, _TILE_COLUMNS), images


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm of ``(rows, columns)``, in the dtype of ``x``."""
    out = torch.empty_like(x)
    shape = _shape_of_norm(x.shape[1])
    grid = (triton.cdiv(len(x), shape['ROWS']),)
    _norm_kernel[grid](x, weight, bias, out, *x.shape, eps, **shape)
    return out


def norm_back(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Its backward pass: gradients of ``x``, and in float32 of weight and bias."""
    out = torch.empty_like(x)
    shape = _shape_of_norm(x.shape[1])
    programs = min(_NORM_PROGRAMS, triton.cdiv(len(x), shape['ROWS']))
    sums = x.new_empty(programs, 2, x.shape[1], dtype=torch.float32)
    _norm_back_kernel[(programs,)](grad, x, weight, out, sums, *x.shape, eps, **shape)
    return out, *sums.sum(0)


def gelu(x: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """GELU, and the sums of its squares ``(images, columns)`` in float32."""
    out = torch.empty_like(x)
    grid = _grid(x, images)
    sums = x.new_empty(images, grid[0], x.shape[1], dtype=torch.float32)
    _gelu_kernel[grid](x, out, sums, len(x) // images, x.shape[1], **_SHAPE)
    return out, sums.sum(1)


def gelu_back_(
    x: Tensor, grad: Tensor, images: int, pull: Tensor | None = None, value: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Backward pass of GELU.

    Args:
        x: What GELU was of.
        grad: The gradient of the GELU; becomes that of ``x``.
        images: How many.
        pull: ``(images, columns)`` in float32; the GELU times this is added to its gradient first.
        value: Whether to return the GELU too.

    Returns:
        Sums of the new gradient's columns ``(columns,)`` in float32; the GELU.
    """
    grid = _grid(x, images)
    out = torch.empty_like(x) if value else None
    sums = x.new_empty(images * grid[0], x.shape[1], dtype=torch.float32)
    flags = {'PULLS': pull is not None, 'KEEPS': value}
    rows = len(x) // images
    _gelu_back_kernel[grid](
        x, grad, pull, out, sums, rows, x.shape[1], **flags, **_SHAPE
    )  # fmt: skip
    return sums.sum(0), out


def add_branch(
    x: Tensor,
    branch: Tensor,
    images: int,
    dtype: torch.dtype,
    factor: Tensor | None,
    shift: Tensor | None,
) -> Tensor:
    """``x + factor * branch + shift`` in ``dtype``; both factors ``(images, columns)`` in float32."""
    out = torch.empty_like(x, dtype=dtype)
    flags = {'SCALES': factor is not None, 'SHIFTS': shift is not None}
    rows = len(x) // images
    _add_kernel[_grid(x, images)](
        x, branch, factor, shift, out, rows, x.shape[1], **flags, **_SHAPE
    )
    return out


def add_branch_back(
    grad: Tensor, branch: Tensor | None, images: int, dtype: torch.dtype, factor: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradient of a sum to that of the branch, ``factor * grad`` in ``dtype``.

    Returns:
        The gradient; by image ``(images, columns)`` in float32 the sums of ``grad * branch`` (zero
        without a branch) and of ``grad``.
    """
    out = torch.empty_like(grad, dtype=dtype)
    grid = _grid(grad, images)
    sums = grad.new_empty(images, grid[0], 2, grad.shape[1], dtype=torch.float32)
    rows = len(grad) // images
    flags = {'SCALES': factor is not None, 'COMPARES': branch is not None}
    _add_back_kernel[grid](grad, branch, factor, out, sums, rows, grad.shape[1], **flags, **_SHAPE)
    return out, *sums.sum(1).unbind(1)
