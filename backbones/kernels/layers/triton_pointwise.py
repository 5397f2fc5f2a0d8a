"""What a ConvNeXt block on a GPU computes beside its convolution and matrix products, in Triton.

Each function makes one pass over its maps. Kernels compute in float32 and store in the dtype of the
result. Each program stores its own sums over pixels, which are then added up in a fixed order: the same
bits every time. Rows are pixels; ``images`` is the number of images that they belong to, all of one
size.

Triton launches on the current device, so every launch is made under that of its tensors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Pixels whose sums one program adds up; pixels and channels of a tile.
_SPAN, _TILE_ROWS, _TILE_COLUMNS = 512, 16, 128
# Elements of a LayerNorm tile, whose rows are complete; programs of its backward pass.
_NORM_TILE, _NORM_PROGRAMS = 2048, 512


@triton.jit
def _layer_norm_kernel(
    x, weight, bias, out, rows, columns, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    valid = (row < rows) & (column < columns)
    offset = row * columns + column
    value = tl.load(x + offset, mask=valid, other=0.0).to(tl.float32)
    mean = tl.sum(value, 1)[:, None] / columns
    value = tl.where(valid, value - mean, 0.0)
    value *= tl.rsqrt(tl.sum(value * value, 1)[:, None] / columns + eps)
    scale = tl.load(weight + column, mask=column < columns, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)
    tl.store(out + offset, (value * scale + shift).to(out.dtype.element_ty), mask=valid)


@triton.jit
def _layer_norm_backward_kernel(
    grad, x, weight, out, sums, rows, columns, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    column = tl.arange(0, COLUMNS)[None, :]
    valid_column = column < columns
    scale = tl.load(weight + column, mask=valid_column, other=0.0).to(tl.float32)
    # Summed over rows at the end, so that threads exchange their sums once.
    grad_scale = tl.zeros((ROWS, COLUMNS), tl.float32)
    grad_shift = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = (tile * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
        valid = (row < rows) & valid_column
        offset = row * columns + column
        value = tl.load(x + offset, mask=valid, other=0.0).to(tl.float32)
        gradient = tl.load(grad + offset, mask=valid, other=0.0).to(tl.float32)
        mean = tl.sum(value, 1)[:, None] / columns
        value = tl.where(valid, value - mean, 0.0)
        rstd = tl.rsqrt(tl.sum(value * value, 1)[:, None] / columns + eps)
        value *= rstd
        grad_scale += gradient * value
        grad_shift += gradient
        gradient *= scale
        dot = tl.sum(gradient * value, 1)[:, None] / columns
        grad_x = (gradient - tl.sum(gradient, 1)[:, None] / columns - value * dot) * rstd
        tl.store(out + offset, grad_x.to(out.dtype.element_ty), mask=valid)
    sums_at = sums + tl.program_id(0) * 2 * columns + column
    tl.store(sums_at, tl.sum(grad_scale, 0)[None, :], mask=valid_column)
    tl.store(sums_at + columns, tl.sum(grad_shift, 0)[None, :], mask=valid_column)


@triton.jit
def _gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _gelu_derivative(x):
    density = 0.3989422804014327 * tl.exp(-0.5 * x * x)
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * density


@triton.jit
def _tile(span, rows, columns, SPAN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """First row of this program's span within its image, offset of the image, and columns."""
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
        valid = (row < rows) & (column < columns)
        offset = image + row.to(tl.int64) * columns + column
        value = _gelu(tl.load(x + offset, mask=valid, other=0.0).to(tl.float32))
        stored = value.to(out.dtype.element_ty)
        tl.store(out + offset, stored, mask=valid)
        value = stored.to(tl.float32)
        total += value * value
    sums_at = sums + (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)) * columns + column
    tl.store(sums_at, tl.sum(total, 0)[None, :], mask=column < columns)


@triton.jit
def _gelu_backward_kernel(
    x,
    grad,
    coefficient,
    gelu_out,
    sums,
    rows,
    columns,
    HAS_COEFFICIENT: tl.constexpr,
    STORES_GELU: tl.constexpr,
    SPAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first, image, column = _tile(tl.program_id(0), rows, columns, SPAN, ROWS, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    if HAS_COEFFICIENT:
        weight = tl.load(
            coefficient + tl.program_id(2) * columns + column, mask=column < columns, other=0.0
        )
    for start in range(0, SPAN, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        valid = (row < rows) & (column < columns)
        offset = image + row.to(tl.int64) * columns + column
        before = tl.load(x + offset, mask=valid, other=0.0).to(tl.float32)
        gradient = tl.load(grad + offset, mask=valid, other=0.0).to(tl.float32)
        if STORES_GELU:
            tl.store(gelu_out + offset, _gelu(before).to(gelu_out.dtype.element_ty), mask=valid)
        if HAS_COEFFICIENT:
            gradient += _gelu(before) * weight
        gradient *= _gelu_derivative(before)
        tl.store(grad + offset, gradient.to(grad.dtype.element_ty), mask=valid)
        total += gradient
    sums_at = sums + (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)) * columns + column
    tl.store(sums_at, tl.sum(total, 0)[None, :], mask=column < columns)


@triton.jit
def _add_branch_kernel(
    x,
    branch,
    branch_scale,
    branch_shift,
    out,
    rows,
    columns,
    HAS_SCALE: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    SPAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first, image, column = _tile(tl.program_id(0), rows, columns, SPAN, ROWS, COLUMNS)
    valid_column = column < columns
    image_offset = tl.program_id(2) * columns + column
    if HAS_SCALE:
        scale = tl.load(branch_scale + image_offset, mask=valid_column, other=0.0)
    if HAS_SHIFT:
        shift = tl.load(branch_shift + image_offset, mask=valid_column, other=0.0)
    for start in range(0, SPAN, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        valid = (row < rows) & valid_column
        offset = image + row.to(tl.int64) * columns + column
        added = tl.load(branch + offset, mask=valid, other=0.0).to(tl.float32)
        if HAS_SCALE:
            added *= scale
        if HAS_SHIFT:
            added += shift
        total = tl.load(x + offset, mask=valid, other=0.0).to(tl.float32) + added
        tl.store(out + offset, total.to(out.dtype.element_ty), mask=valid)


@triton.jit
def _add_branch_backward_kernel(
    grad,
    branch,
    branch_scale,
    out,
    sums,
    rows,
    columns,
    HAS_SCALE: tl.constexpr,
    HAS_BRANCH: tl.constexpr,
    SPAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first, image, column = _tile(tl.program_id(0), rows, columns, SPAN, ROWS, COLUMNS)
    valid_column = column < columns
    if HAS_SCALE:
        scale = tl.load(
            branch_scale + tl.program_id(2) * columns + column, mask=valid_column, other=0.0
        )
    dot = tl.zeros((ROWS, COLUMNS), tl.float32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, SPAN, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        valid = (row < rows) & valid_column
        offset = image + row.to(tl.int64) * columns + column
        gradient = tl.load(grad + offset, mask=valid, other=0.0).to(tl.float32)
        total += gradient
        if HAS_BRANCH:
            value = tl.load(branch + offset, mask=valid, other=0.0).to(tl.float32)
            dot += gradient * value
        if HAS_SCALE:
            gradient *= scale
        tl.store(out + offset, gradient.to(out.dtype.element_ty), mask=valid)
    program = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    sums_at = sums + program * 2 * columns + column
    tl.store(sums_at, tl.sum(dot, 0)[None, :], mask=valid_column)
    tl.store(sums_at + columns, tl.sum(total, 0)[None, :], mask=valid_column)


_TILE = {'SPAN': _SPAN, 'ROWS': _TILE_ROWS, 'COLUMNS': _TILE_COLUMNS}


def _norm_tile(columns: int) -> dict[str, int]:
    width = triton.next_power_of_2(columns)
    rows = max(1, _NORM_TILE // width)
    return {'ROWS': rows, 'COLUMNS': width, 'num_warps': 4 if rows * width <= _NORM_TILE else 8}


def _grid(x: Tensor, images: int) -> tuple[int, int, int]:
    rows, columns = x.shape
    return triton.cdiv(rows // images, _SPAN), triton.cdiv(columns, _TILE_COLUMNS), images


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm of ``(rows, columns)``, in the dtype of ``x``; all tensors contiguous."""
    out = torch.empty_like(x)
    tile = _norm_tile(x.shape[1])
    grid = (triton.cdiv(len(x), tile['ROWS']),)
    with torch.cuda.device_of(x):
        _layer_norm_kernel[grid](x, weight, bias, out, *x.shape, eps, **tile)
    return out


def layer_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Its backward pass: the gradients of ``x``, and in float32 of weight and bias."""
    out = torch.empty_like(x)
    tile = _norm_tile(x.shape[1])
    programs = min(_NORM_PROGRAMS, triton.cdiv(len(x), tile['ROWS']))
    sums = x.new_empty(programs, 2, x.shape[1], dtype=torch.float32)
    with torch.cuda.device_of(x):
        _layer_norm_backward_kernel[(programs,)](grad, x, weight, out, sums, *x.shape, eps, **tile)
    return out, *sums.sum(0)


def gelu(x: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """GELU of ``(rows, columns)``, and its sums of squares ``(images, columns)`` in float32."""
    out = torch.empty_like(x)
    grid = _grid(x, images)
    sums = x.new_empty(images, grid[0], x.shape[1], dtype=torch.float32)
    with torch.cuda.device_of(x):
        _gelu_kernel[grid](x, out, sums, len(x) // images, x.shape[1], **_TILE)
    return out, sums.sum(1)


def gelu_backward_(
    x: Tensor,
    grad: Tensor,
    images: int,
    coefficient: Tensor | None = None,
    returns_gelu: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Backward pass of GELU.

    Args:
        x: Input of the GELU, ``(rows, columns)``.
        grad: Gradient of the GELU, of the same shape; becomes the gradient of ``x``.
        images: Number of images.
        coefficient: ``(images, columns)`` in float32; the GELU times this is added to its gradient
            first (GRN's part).
        returns_gelu: Whether to return the GELU too.

    Returns:
        Each column's sum of the gradient of ``x``, ``(columns,)`` in float32; the GELU or None.
    """
    grid = _grid(x, images)
    out = torch.empty_like(x) if returns_gelu else None
    sums = x.new_empty(images * grid[0], x.shape[1], dtype=torch.float32)
    flags = {'HAS_COEFFICIENT': coefficient is not None, 'STORES_GELU': returns_gelu}
    sizes = len(x) // images, x.shape[1]
    with torch.cuda.device_of(x):
        _gelu_backward_kernel[grid](x, grad, coefficient, out, sums, *sizes, **flags, **_TILE)
    return sums.sum(0), out


def add_branch(
    x: Tensor,
    branch: Tensor,
    images: int,
    dtype: torch.dtype,
    scale: Tensor | None,
    shift: Tensor | None,
) -> Tensor:
    """``x + scale * branch + shift`` in ``dtype``; scale and shift ``(images, columns)`` in float32."""
    out = torch.empty_like(x, dtype=dtype)
    flags = {'HAS_SCALE': scale is not None, 'HAS_SHIFT': shift is not None}
    sizes = len(x) // images, x.shape[1]
    with torch.cuda.device_of(x):
        _add_branch_kernel[_grid(x, images)](x, branch, scale, shift, out, *sizes, **flags, **_TILE)
    return out


def add_branch_backward(
    grad: Tensor, branch: Tensor | None, images: int, dtype: torch.dtype, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward pass of :func:`add_branch`, with respect to the branch.

    Returns:
        ``scale * grad`` in ``dtype``; for each image, ``(images, columns)`` in float32, the sums of
        ``grad * branch`` (zero without a branch) and of ``grad``.
    """
    out = torch.empty_like(grad, dtype=dtype)
    grid = _grid(grad, images)
    sums = grad.new_empty(images, grid[0], 2, grad.shape[1], dtype=torch.float32)
    flags = {'HAS_SCALE': scale is not None, 'HAS_BRANCH': branch is not None}
    sizes = len(grad) // images, grad.shape[1]
    with torch.cuda.device_of(grad):
        _add_branch_backward_kernel[grid](grad, branch, scale, out, sums, *sizes, **flags, **_TILE)
    dot_sums, grad_sums = sums.sum(1).unbind(1)
    return out, dot_sums, grad_sums
