"""Which maps of a backbone necks and heads read, and what their configs say of these maps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import Tensor

from backbones.errors import ConfigError
from backbones.uninitialised import on_meta

from .facts import BackboneFacts
from .stock import StockMaps

# Necks whose forward pass counts the maps of the backbone from its first one, read or not.
_BY_POSITION = ('NASFCOS_FPN',)
# Heads with a pooling of fixed size: the least sides of the last map that they read.
_LEAST_SIDES = {'LRASPPHead': 49}
_SIDE = 512  # of the image whose maps a neck gets when it is run on the meta device


class DetectorMaps:
    """The maps that a detector reads: all maps of its neck, or of the heads that stand without one.

    Args:
        name: Of the new backbone, for messages.
        model: The detector, with the neck and heads of its own backbone. :meth:`configure` changes it.
        stock: The maps of its own backbone.

    Raises:
        ConfigError: Nothing in it reads maps in a known way.
    """

    def __init__(self, name: str, model: ConfigDict, stock: StockMaps) -> None:
        self.name, self.model, self.stock = name, model, stock
        neck = model.get('neck')
        necks = list(neck) if isinstance(neck, (list, tuple)) else [neck] if neck else []
        self.readers = necks[:1] or [
            head
            for head in model.values()
            if isinstance(head, Mapping) and isinstance(head.get('in_channels'), Sequence)
        ]
        if not self.readers or 'in_channels' not in self.readers[0]:
            raise ConfigError(
                f'backbone {name!r}: this detector ({model.get("type")}) has no neck whose in_channels '
                "could be set, and no head that lists the channels of the backbone's maps."
            )
        listed = self.readers[0]['in_channels']
        self.count = len(listed) if isinstance(listed, Sequence) else 1

    def leave_out_unread(self) -> None:
        """Let a neck that starts at a later map be one of the maps from there on.

        It computes the same, and its parameters keep their names.
        """
        neck = self.readers[0]
        if neck.get('type') in _BY_POSITION:
            return
        start = neck.get('start_level', 0)
        if start > 0 and neck.get('end_level', -1) == -1 and self.count > start:
            neck['in_channels'] = neck['in_channels'][start:]
            neck['start_level'] = 0
            self.count -= start

    def chosen(self, strides: Sequence[int]) -> tuple[int, ...]:
        """Which maps of a backbone with these strides are read, the finest first."""
        wanted = self.stock.strides if self.stock.are_sorted else None
        if wanted and len(wanted) >= self.count:
            wanted = wanted[-self.count :]
            if set(wanted) <= set(strides):
                return tuple(list(strides).index(int(stride)) for stride in wanted)
        return tuple(range(len(strides)))[-self.count :]

    def configure(self, facts: BackboneFacts) -> None:
        """Set the channels of necks and heads."""
        self._require_strides(facts)
        for reader in self.readers:
            old = reader['in_channels']
            if not isinstance(old, Sequence):
                reader['in_channels'] = facts.channels[-1]
                continue
            channels = list(facts.channels)
            if len(old) > 1 and all(a > b for a, b in itertools.pairwise(old)):
                channels.reverse()  # YOLOv3's neck lists the coarsest map first
            reader['in_channels'] = _like(old, channels)
            self._pass_on(reader, old, channels)

    def _pass_on(self, neck: dict, old: Sequence[int], new: Sequence[int]) -> None:
        """SSD's neck returns the maps themselves before its own: tell it and its heads."""
        returned = neck.get('out_channels')
        if not isinstance(returned, Sequence) or list(returned[: len(old)]) != list(old):
            return
        neck['out_channels'] = _like(returned, [*new, *returned[len(old) :]])
        for head in self.model.values():
            if isinstance(head, dict) and head.get('in_channels') == returned:
                head['in_channels'] = neck['out_channels']

    def _require_strides(self, facts: BackboneFacts) -> None:
        listed = isinstance(self.readers[0]['in_channels'], Sequence)
        if listed and len(facts.channels) != self.count:
            self._refuse(facts, f'this detector reads {self.count} maps')
        anchors = ((self.model.get('rpn_head') or {}).get('anchor_generator') or {}).get('strides')
        wanted = tuple(anchors[: self.count]) if anchors else None
        if self.stock.are_sorted and self.stock.strides:
            wanted = tuple(int(s) for s in self.stock.strides[-self.count :])
        if wanted and tuple(facts.strides[-self.count :]) != wanted:
            self._refuse(facts, f'this detector is made for strides {wanted}')

    def _refuse(self, facts: BackboneFacts, why: str) -> None:
        raise ConfigError(
            f'backbone {self.name!r} gives maps of strides {facts.strides}; {why}. '
            'Return one map each at strides 4, 8, 16 and 32.'
        )


class SegmenterMaps:
    """The maps that a segmenter reads. Arguments as in :class:`DetectorMaps`.

    Heads count maps as their own backbone returns them. The last one is the last of another backbone
    too, whatever their strides are: dilated convolutions keep them small.
    """

    def __init__(self, name: str, model: ConfigDict, stock: StockMaps) -> None:
        self.name, self.model = name, model
        neck = model.get('neck')
        listed = neck.get('in_channels') if isinstance(neck, Mapping) else None
        self.neck = neck if listed is not None else None
        self.neck_count = len(listed) if isinstance(listed, Sequence) else 1
        self.heads = list(_heads(model))
        self.count = stock.count or 1 + max(
            (i for _, head in self.heads for i in _indices(head, 4)), default=3
        )

    def chosen(self, strides: Sequence[int]) -> tuple[int, ...]:
        """Which maps of a backbone with these strides are read, the finest first."""
        total = len(strides)
        if self.neck is not None:
            return tuple(range(total))[-self.neck_count :]
        read = {i for _, head in self.heads for i in _indices(head, self.count)}
        read |= {0 for _, head in self.heads if head.get('c1_in_channels')}
        return tuple(sorted({self._moved(i, total) for i in read}))

    def _moved(self, index: int, total: int) -> int:
        """The position among ``total`` maps of one that the config's own backbone returns."""
        return max(0, index % self.count - self.count + total)

    def configure(self, facts: BackboneFacts, chosen: Sequence[int] | None, total: int) -> None:
        """Set channels and indices of neck and heads.

        Args:
            facts: Of the backbone as it is built, with the chosen maps alone where it can.
            chosen: What :meth:`chosen` returned; None: maps are those that the user asked for.
            total: Of how many maps they are chosen.
        """
        channels: Sequence[int] | None = facts.channels
        if self.neck is not None:
            old = self.neck['in_channels']
            self.neck.in_channels = (
                _like(old, facts.channels[-self.neck_count :])
                if isinstance(old, Sequence)
                else facts.channels[-1]
            )
            channels = _channels_behind(self.neck, facts, self.neck_count)
        if channels is None:
            return
        for key, head in self.heads:
            indices = self._indices_in(key, head, facts, chosen, total)
            if any(not -len(channels) <= i < len(channels) for i in indices):
                raise ConfigError(
                    f'backbone {facts.name!r} gives {len(facts.channels)} maps; {key} of this config '
                    f'reads maps {indices}.'
                )
            self._tell(head, indices, channels)

    def require_room(self, facts: BackboneFacts, crop: Sequence[int]) -> None:
        """ConfigError if a head pools more of the last map than crops of this size have of it."""
        stride = int(facts.strides[-1])
        for key, head in self.heads:
            least = _LEAST_SIDES.get(str(head.get('type')), 0)
            if min(crop) // stride < least:
                raise ConfigError(
                    f'backbone {facts.name!r} cannot be put into this model: its {key}, {head["type"]}, '
                    f'pools {least} x {least} positions of the last map, so it needs at stride {stride} '
                    f'crops of {least * stride} pixels; those of this config are {tuple(crop)}.'
                )

    def _indices_in(
        self,
        key: str,
        head: Mapping,
        facts: BackboneFacts,
        chosen: Sequence[int] | None,
        total: int,
    ) -> list[int]:
        count = self.count
        if self.neck is not None or chosen is None:
            return _indices(head, len(facts.channels), wrap=False)
        kept = list(chosen) if len(facts.channels) == len(chosen) else list(range(total))
        return [kept.index(self._moved(i, total)) for i in _indices(head, count)]

    @staticmethod
    def _tell(head: dict, indices: list[int], channels: Sequence[int]) -> None:
        single = not _reads_several(head)
        if 'in_index' in head or single:
            old = head.get('in_index', -1)
            head['in_index'] = indices[0] if single else _like(old, indices)
        read = [channels[i] for i in indices]
        head['in_channels'] = read[0] if single else _like(head['in_channels'], read)
        if head.get('c1_in_channels'):  # DeepLabV3+ reads the first map a second time
            head['c1_in_channels'] = channels[0]
        if head.get('num_convs') == 0:
            head['channels'] = head['in_channels']  # there is no convolution before it


def _like(old: Sequence, new: Sequence) -> Sequence:
    """``new`` as a tuple where ``old`` is one, else as a list: SSD's neck compares the two."""
    return tuple(new) if isinstance(old, tuple) else list(new)


def _heads(model: Mapping) -> Iterator[tuple[str, ConfigDict]]:
    """The heads of a segmenter that read maps, with their place in the config."""
    for key in ('decode_head', 'auxiliary_head'):
        value = model.get(key)
        for head in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(head, dict):
                continue
            inner = head.get('kernel_generate_head')  # K-Net's, which reads for the others
            if isinstance(inner, Mapping):
                yield f'{key}.kernel_generate_head', inner
            elif head.get('in_channels') is not None:
                if head.get('type') == 'EncHead' and not head.get('add_lateral'):
                    _leave_out_unread(head)
                yield key, head


def _leave_out_unread(head: dict) -> None:
    """Without lateral connections EncNet's head lists several maps and reads the last."""
    for key in ('in_index', 'in_channels'):
        if isinstance(head.get(key), Sequence):
            head[key] = head[key][-1:]


def _reads_several(head: Mapping) -> bool:
    return isinstance(head.get('in_index', head['in_channels']), Sequence)


def _indices(head: Mapping, count: int, wrap: bool = True) -> list[int]:
    """The maps that a head reads, out of ``count``; by default those before the end as from the start."""
    index = head.get('in_index')
    if index is None:
        index = list(range(count)) if _reads_several(head) else -1
    indices = list(index) if isinstance(index, Sequence) else [index]
    return [i % count for i in indices] if wrap else indices


@torch.no_grad()
def _channels_behind(neck: Mapping, facts: BackboneFacts, count: int) -> list[int] | None:
    """The channels of what a neck makes of the last ``count`` maps; None where it cannot run on meta."""
    try:
        with on_meta():
            built = MODELS.build({k: v for k, v in neck.items() if k != 'init_cfg'})
            built.eval()
            maps = built(
                tuple(
                    torch.zeros(1, c, _SIDE // s, _SIDE // s, device='meta')
                    for c, s in list(zip(facts.channels, facts.strides))[-count:]
                )
            )
    except Exception:  # heads then keep the channels of the config, which are those of its neck
        return None
    maps = [maps] if isinstance(maps, Tensor) else maps
    return [m.shape[1] for m in maps]
