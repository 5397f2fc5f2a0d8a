"""A CUDA device that is pretended on a CPU, so that tests see what code does with devices.

Inside :func:`pretended_cuda` tensors can be moved to ``cuda``. They say that they are on ``cuda:0`` and
compute on the CPU, so that code which depends on data (nonzero, NMS, samplers) runs as well. Two things
are as on a GPU: an operator of tensors on two devices raises, and every place where the host would wait
for the device is counted, with the line of code. Not so: streams, memory, numerics, kernels of one's own.
Autocast is the CPU's, whose list of operators is not CUDA's.
"""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

CUDA = torch.device('cuda', 0)
# The size or the value of the result depends on data: the host waits for it.
_WAITING = {
    '_local_scalar_dense', 'nonzero', 'masked_select', '_unique2', 'unique_dim', 'unique_consecutive',
    'equal', 'is_nonzero', 'bincount', 'repeat_interleave',
}  # fmt: skip
_COPYING = {'copy_', '_to_copy', 'lift_fresh', 'set_'}
_INDEXING = {'index', 'index_put', 'index_put_', '_index_put_impl_', '_unsafe_index'}
# Operators whose CUDA kernels raise under torch.use_deterministic_algorithms(True): from its docstring,
# and torchvision's from the call of alertNotDeterministic in its kernel.
_NOT_DETERMINISTIC = {
    '_roi_align_backward', 'nll_loss2d_forward', '_adaptive_avg_pool2d_backward', 'bincount', 'put_',
    'upsample_bilinear2d_backward', 'reflection_pad2d_backward',
    'adaptive_max_pool2d_backward', 'max_pool3d_with_indices_backward',
}  # fmt: skip
# CPUs compute these in float16 and bfloat16, but some of them very slowly.
_PRODUCTS = {'convolution', 'convolution_backward', 'mm', 'addmm', 'bmm', 'baddbmm'}
_HALVES = (torch.float16, torch.bfloat16)
_OWN = str(Path(__file__))
_LIBRARY_OF_TENSORS = str(Path(torch.__file__).parent)


class CudaTensor(torch.Tensor):
    """A tensor that says ``cuda:0``; its values are in :attr:`inner`, a tensor on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> CudaTensor:
        # C++ believes it to be on the CPU: it would ask a driver about another device.
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device='cpu',
        )
        made.inner = inner
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None) -> Any:
        return _run(func, args, kwargs or {})

    def get_device(self) -> int:
        return 0

    def to(self, *args, **kwargs) -> torch.Tensor:
        device, dtype, non_blocking, layout = _destination(*args, **kwargs)
        moved = self
        if dtype not in (None, self.dtype) or layout is not None:
            options = {'memory_format': layout} if layout is not None else {}
            with torch._C.DisableTorchFunctionSubclass():
                moved = torch.Tensor.to(self, dtype or self.dtype, **options)
        if device is not None and device.type == 'cpu':
            return _ToHost.apply(moved, non_blocking)
        return moved

    def cpu(self, *args, **kwargs) -> torch.Tensor:
        return self.to('cpu')

    def cuda(self, *args, **kwargs) -> CudaTensor:
        return self

    def type_as(self, other: torch.Tensor) -> torch.Tensor:
        return self.to(other.device, other.dtype)

    def tolist(self) -> list:
        _note('tolist')
        return self.inner.tolist()

    def numpy(self, *args, **kwargs) -> None:
        raise TypeError(
            'a tensor on cuda:0 cannot become an array of NumPy; move it to the CPU first'
        )

    __array__ = numpy

    def data_ptr(self) -> int:
        raise RuntimeError('a pointer into the memory of cuda:0 was asked for')

    def __deepcopy__(self, memo: dict) -> CudaTensor:
        copied = CudaTensor(self.inner.clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied._is_param = True
        return memo.setdefault(id(self), copied)

    def __repr__(self) -> str:
        return f'CudaTensor({tuple(self.shape)}, {self.dtype})'


class _ToHost(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: CudaTensor, non_blocking: bool) -> torch.Tensor:
        if not non_blocking:
            _note('to host')
        return tensor.inner.clone()

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple:
        return (grad if isinstance(grad, CudaTensor) else CudaTensor(grad)), None


class Waits:
    """Counts where the host would wait for the device, while :attr:`counting`."""

    def __init__(self) -> None:
        self.counting = False
        self.places: Counter[tuple[str, str]] = Counter()

    @contextlib.contextmanager
    def counted(self) -> Iterator[Counter]:
        """Count within the block, from zero."""
        self.places.clear()
        self.counting = True
        try:
            yield self.places
        finally:
            self.counting = False

    def total(self, *parts_of_paths: str) -> int:
        """How many waits there were, or those in files whose path has one of the parts."""
        chosen = parts_of_paths or ('',)
        return sum(
            n for (_, where), n in self.places.items() if any(part in where for part in chosen)
        )

    def __str__(self) -> str:
        lines = [f'{n:4} {what:20} {where}' for (what, where), n in self.places.most_common()]
        return '\n'.join([f'{self.total()} waits:', *lines])


_waits: list[Waits] = []
_on_host_explicitly: list[bool] = []
_in_backward: list[bool] = []


def _note(what: str) -> None:
    if not _waits or not _waits[-1].counting:
        return
    frames = [
        frame
        for frame in traceback.extract_stack()
        if frame.filename != _OWN and not frame.filename.startswith(_LIBRARY_OF_TENSORS)
    ]
    place = '/'.join(Path(frames[-1].filename).parts[-3:])
    _waits[-1].places[what, f'{place}:{frames[-1].lineno} {frames[-1].name}'] += 1


def _destination(*args, **kwargs) -> tuple:
    """Device, dtype, non_blocking and memory format of the arguments of ``Tensor.to``."""
    device, dtype, flags = kwargs.get('device'), kwargs.get('dtype'), []
    for value in args:
        if isinstance(value, bool):
            flags.append(value)
        elif isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, torch.Tensor):
            device, dtype = value.device, value.dtype
        elif value is not None:
            device = value
    if device is not None:
        device = CUDA if isinstance(device, int) else torch.device(device)
    non_blocking = kwargs.get('non_blocking', flags[0] if flags else False)
    return device, dtype, non_blocking, kwargs.get('memory_format')


def _to_device(tensor: torch.Tensor, *args, **kwargs) -> CudaTensor:
    """A tensor of the host on the device; from pinned memory that is asynchronous if it is asked for."""
    assert not tensor.requires_grad or tensor.is_leaf, (
        'gradients do not pass from device to host here'
    )
    _, dtype, non_blocking, layout = _destination(*args, **kwargs)
    if not (non_blocking and getattr(tensor, 'in_pinned_memory', False)):
        _note('from host (a number)' if tensor.dim() == 0 else 'from host')
    options = {'memory_format': layout} if layout is not None else {}
    inner = torch.Tensor.to(tensor.detach(), dtype or tensor.dtype, copy=True, **options)
    return CudaTensor(inner).requires_grad_(tensor.requires_grad)


def _run(func: Any, args: Sequence, kwargs: dict) -> Any:
    """An operator, of which some arguments are on the device."""
    name = func._schema.name.split('::')[-1]
    tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
    on_device = [t for t in tensors if isinstance(t, CudaTensor)]
    if on_device:
        _check_devices(func, name, args, tensors)
        _count(name, args, kwargs)
        if name in _NOT_DETERMINISTIC and torch.are_deterministic_algorithms_enabled():
            message = f'{name} does not have a deterministic implementation (on CUDA)'
            if not torch.is_deterministic_algorithms_warn_only_enabled():
                raise RuntimeError(message)
            warnings.warn(message, stacklevel=2)
    to_device = _is_result_on_device(func, name, args, kwargs, bool(on_device))

    inner = tree_map(_inner, (args, kwargs))
    inner[1].pop('pin_memory', None)
    half = next((t.dtype for t in tensors if t.dtype in _HALVES), None)
    if half and name in _PRODUCTS:
        exact = tree_map(lambda x: _in_dtype(x, torch.float32), inner)
        result = tree_map(lambda x: _in_dtype(x, half), func(*exact[0], **exact[1]))
    else:
        result = func(*inner[0], **inner[1])
    if (written := _written(func._schema, args, kwargs)) is not None:
        return written
    if name == '_local_scalar_dense' or not to_device:
        return result
    return tree_map(
        lambda x: (
            CudaTensor(x) if isinstance(x, torch.Tensor) and not isinstance(x, CudaTensor) else x
        ),
        result,
    )


def _inner(value: Any) -> Any:
    if isinstance(value, CudaTensor):
        return value.inner
    return torch.device('cpu') if isinstance(value, torch.device) else value


def _in_dtype(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) else value


def _is_result_on_device(func: Any, name: str, args: Sequence, kwargs: dict, any_is: bool) -> bool:
    if name == 'copy_':
        return isinstance(args[0], CudaTensor)
    if any_is and (name.startswith('new_') or name.endswith('_like')):
        # C++ passes on the device that it believes the tensor to be on.
        return not _on_host_explicitly
    positional = {a.name: value for a, value in zip(func._schema.arguments, args)}
    device = kwargs.get('device', positional.get('device'))
    if not any_is:
        if device is not None and device.type == 'cuda':
            return True
        # The engine of autograd makes zeros on the device that it believes in.
        return bool(_in_backward) and not _on_host_explicitly
    return device is None or device.type == 'cuda' or name == '_to_copy'


def _check_devices(func: Any, name: str, args: Sequence, tensors: list[torch.Tensor]) -> None:
    # A number on the host is passed to a kernel by value.
    on_host = [t for t in tensors if not isinstance(t, CudaTensor) and t.dim() > 0]
    if not on_host or name in _COPYING:
        return
    if name in _INDEXING and isinstance(args[0], CudaTensor):
        indices = {id(t) for t in tree_iter(args[1]) if isinstance(t, torch.Tensor)}
        for _ in range(sum(id(t) in indices for t in on_host)):
            _note('index from host')  # CUDA moves it
        on_host = [t for t in on_host if id(t) not in indices]
    if on_host:
        shapes = [tuple(t.shape) for t in tensors if isinstance(t, CudaTensor)]
        raise RuntimeError(
            f'Expected all tensors to be on the same device: {func} has {shapes} on cuda:0 and '
            f'{[tuple(t.shape) for t in on_host]} on cpu'
        )


def _count(name: str, args: Sequence, kwargs: dict) -> None:
    if name in _WAITING and not (name == 'repeat_interleave' and 'output_size' in kwargs):
        _note(name)
    if name in _INDEXING:
        masks = (torch.bool, torch.uint8)
        for _ in range(
            sum(isinstance(t, torch.Tensor) and t.dtype in masks for t in tree_iter(args[1]))
        ):
            _note('mask as index')
    if name == 'copy_':
        into, source = args[0], args[1]
        if isinstance(into, CudaTensor) and not isinstance(source, CudaTensor):
            _note('from host (a number)' if source.dim() == 0 else 'from host')
        elif not isinstance(into, CudaTensor):
            _note('to host')


def _written(schema: Any, args: Sequence, kwargs: dict) -> Any:
    """What an operator in place returns: what it was given."""
    arguments = [*zip(schema.arguments, args)]
    arguments += [(a, kwargs[a.name]) for a in schema.arguments if a.name in kwargs]
    written = [v for a, v in arguments if a.alias_info is not None and a.alias_info.is_write]
    returned = [r for r in schema.returns if r.alias_info is not None and r.alias_info.is_write]
    if returned and written:
        return written[0] if len(returned) == 1 else tuple(written)
    return None


class _Operators(TorchDispatchMode):
    """Sees operators that have no tensor of the device among their arguments as well."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Moves tensors where they are told to go, before PyTorch looks for a driver."""

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        plain = isinstance(first, torch.Tensor) and not isinstance(first, CudaTensor)
        name = getattr(func, '__name__', '')
        if plain and name in ('to', 'cuda', 'type_as'):
            target = CUDA if name == 'cuda' else _destination(*args[1:], **kwargs)[0]
            if target is not None and target.type == 'cuda':
                return _to_device(first, *args[1:], **kwargs)
        if name in ('tensor', 'as_tensor', 'new_tensor'):
            return _from_data(func, name, args, kwargs)
        if name == 'backward':
            with _flag(_in_backward):
                return func(*args, **kwargs)
        device = kwargs.get('device')
        if device is None:
            return func(*args, **kwargs)
        if torch.device(device).type == 'cpu':
            with _flag(_on_host_explicitly):
                return func(*args, **kwargs)
        with _flag(_on_host_explicitly):
            made = func(*args, **{**kwargs, 'device': 'cpu', 'requires_grad': False})
        return CudaTensor(made).requires_grad_(kwargs.get('requires_grad', False))


def _from_data(func: Callable, name: str, args: Sequence, kwargs: dict) -> torch.Tensor:
    """``torch.tensor``, ``torch.as_tensor`` and ``Tensor.new_tensor``."""
    device = kwargs.pop('device', None)
    like = args[0] if name == 'new_tensor' else None
    data = args[1] if name == 'new_tensor' else args[0]
    if device is None and isinstance(like, CudaTensor):
        device = CUDA
    if isinstance(data, CudaTensor):
        moved = data.detach().clone() if name != 'as_tensor' else data
        return moved.to(device or moved.device, kwargs.get('dtype') or getattr(like, 'dtype', None))
    numbers = tree_map(lambda x: x.item() if isinstance(x, CudaTensor) else x, data)
    if name == 'new_tensor':
        made = torch.as_tensor(numbers, dtype=kwargs.get('dtype') or like.dtype, device='cpu')
    else:
        with _flag(_on_host_explicitly):
            made = func(numbers, *args[1:], **kwargs)
    on_device = device is not None and torch.device(device).type == 'cuda'
    return _to_device(made) if on_device else made


@contextlib.contextmanager
def _flag(flags: list[bool]) -> Iterator[None]:
    flags.append(True)
    try:
        yield
    finally:
        flags.pop()


def pinned(data: Any) -> Any:
    """``data`` with its tensors in memory that is pinned, in a manner of speaking."""

    def mark(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            value.in_pinned_memory = True
        return value

    return tree_map(mark, data)


class _Autocast(torch.autocast):
    """``torch.autocast`` of the device, which C++ believes to be the CPU."""

    def __init__(self, device_type: str, dtype: torch.dtype | None = None, **options) -> None:
        if device_type == 'cuda':
            device_type, dtype = 'cpu', dtype or torch.float16
        super().__init__(device_type, dtype=dtype, **options)


@contextlib.contextmanager
def _pretended_autocast() -> Iterator[None]:
    own = torch.autocast
    torch.autocast = _Autocast
    try:
        yield
    finally:
        torch.autocast = own


@contextlib.contextmanager
def _without_driver() -> Iterator[None]:
    """Functions in a backward pass are not seen by ``_Functions``: PyTorch would look for a driver."""
    own = torch.cuda._lazy_init
    torch.cuda._lazy_init = lambda: None
    try:
        yield
    finally:
        torch.cuda._lazy_init = own


@contextlib.contextmanager
def pretended_cuda() -> Iterator[Waits]:
    """Within it tensors and modules can be moved to ``cuda``; yields the count of waits."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    _waits.append(Waits())
    try:
        # One thread, or the engine of autograd would run without the modes.
        one_thread = torch.autograd.set_multithreading_enabled(False)
        with _Functions(), _Operators(), one_thread, _pretended_autocast(), _without_driver():
            yield _waits[-1]
    finally:
        _waits.pop()
        torch.__future__.set_overwrite_module_params_on_conversion(before)
