"""Untrusted files: a corpus of hostile checkpoints through every reader; no code of theirs may run."""

import io
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

import backbones.weights.read
from backbones import ConvNeXt, WeightsError, load_pretrained
from downstream.distributed import gather
from downstream.distributed.safe_pickle import dumps, loads
from downstream.running.checkpoint import files
from downstream.running.checkpoint.read import read
from tests.downstream.running.tiny_run import tiny_run
from tests.support import processes

MARK = 'executed'


class Payload:
    """Unpickling it makes a file."""

    def __reduce__(self):
        return open, (MARK, 'w')


class KeyPayload(str):
    __slots__ = ()

    def __reduce__(self):
        return open, (MARK, 'w')


class Reaching:
    """What ``getattr`` finds from something harmless on."""

    def __init__(self, owner: object, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


class Planted:
    """A buffer of the log whose methods are of the file's choice."""

    def __init__(self, **state: object) -> None:
        self.state = state

    def __reduce__(self):
        return HistoryBuffer, (), self.state


class Calling:
    def __init__(self, function: object, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


WEIGHTS = {'weight': torch.zeros(3)}


def saved(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


HOSTILE = {
    'in meta': lambda: saved({'state_dict': WEIGHTS, 'meta': Payload()}),
    'in meta, old format': lambda: saved(
        {'state_dict': WEIGHTS, 'meta': Payload()}, _use_new_zipfile_serialization=False
    ),
    'in weights': lambda: saved({'state_dict': {**WEIGHTS, 'bias': Payload()}}),
    'in optimizer': lambda: saved({'state_dict': WEIGHTS, 'optimizer': {'state': [Payload()]}}),
    'as a key': lambda: saved({'state_dict': WEIGHTS, KeyPayload('meta'): 1}),
    'as metadata of an ordered dict': lambda: saved(
        {'state_dict': Calling(_ordered_with_attribute)}
    ),
    'in an array of objects': lambda: saved(
        {'state_dict': WEIGHTS, 'meta': np.array([Payload()], dtype=object)}
    ),
    'a pickle and nothing else': lambda: pickle.dumps(Payload()),
    'a pickle of protocol 4': lambda: pickle.dumps({'state_dict': Payload()}, protocol=4),
    'a whole model': lambda: saved(torch.nn.Linear(2, 2)),
    'TorchScript': scripted,
    'builtins by getattr': lambda: saved(
        {'state_dict': WEIGHTS, 'meta': Reaching(Reaching(getattr, '__self__'), 'eval')}
    ),
    'globals by getattr': lambda: saved(
        {
            'state_dict': WEIGHTS,
            'meta': Reaching(Reaching(HistoryBuffer, '__init__'), '__globals__'),
        }
    ),
    'a method planted in a log': lambda: saved(
        {'state_dict': WEIGHTS, 'message_hub': Planted(current=Reaching(getattr, '__self__'))}
    ),
    'a log without a log': lambda: saved(
        {'state_dict': WEIGHTS, 'message_hub': Planted(_log_history='text')}
    ),
    'import': lambda: saved({'state_dict': WEIGHTS, 'meta': Calling(__import__, 'antigravity')}),
    'eval': lambda: saved({'state_dict': WEIGHTS, 'meta': Calling(eval, f"open('{MARK}', 'w')")}),
    'setstate of a module': lambda: saved(
        {'state_dict': WEIGHTS, 'meta': Calling(torch.nn.Module.__setattr__, 1, 'a', 2)}
    ),
    'torch.load in torch.load': lambda: saved(
        {'state_dict': WEIGHTS, 'meta': Calling(torch.load, 'other.pth')}
    ),
}


def _ordered_with_attribute() -> OrderedDict:
    """Its name alone is in the file; calling it would leave the mark."""
    Path(MARK).touch()
    return OrderedDict()


READERS = {
    'testing': read,
    'resuming': lambda path: files.verified(path),
    'pretrained weights': backbones.weights.read.read,
    'a backbone': lambda path: load_pretrained(ConvNeXt('atto'), str(path)),
    "OpenMMLab's loader": lambda path: CheckpointLoader.load_checkpoint(str(path)),
}


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('name', HOSTILE)
def test_nothing_of_a_hostile_file_runs(name, reader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'hostile.pth'
    path.write_bytes(HOSTILE[name]())
    assert not (tmp_path / MARK).exists()
    with pytest.raises(WeightsError, match=r'hostile\.pth') as caught:
        READERS[reader](path)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / MARK).exists()


def test_the_corpus_is_hostile(tmp_path, monkeypatch):
    """Read without care, files of the corpus do leave their mark."""
    monkeypatch.chdir(tmp_path)
    executed = 0
    for make in HOSTILE.values():
        (tmp_path / 'a.pth').write_bytes(make())
        try:
            torch.load(tmp_path / 'a.pth', weights_only=False)
        except Exception:
            continue
        finally:
            executed += (tmp_path / MARK).exists()
            (tmp_path / MARK).unlink(missing_ok=True)
    assert executed >= 8


def header_of(length: int, text: bytes) -> bytes:
    return struct.pack('<Q', length) + text


@pytest.mark.parametrize(
    'content',
    [
        header_of(2**63, b'{}'),
        header_of(10**9, b'{}'),
        header_of(2, b'{}')[:5],
        header_of(80, b'{"a":{"dtype":"F32","shape":[99999999],"data_offsets":[0,4]}}'.ljust(80)),
    ],
)
def test_a_safetensors_file_that_lies(content, tmp_path):
    path = tmp_path / 'a.safetensors'
    path.write_bytes(content)
    with pytest.raises(WeightsError, match='no .safetensors file or is cut off'):
        backbones.weights.read.read(path)


@pytest.mark.parametrize('reader', READERS)
def test_a_tensor_larger_than_its_file_is_refused(reader, tmp_path):
    """Four bytes can pretend to be a terabyte, by strides of zero."""
    huge = torch.zeros(1).as_strided((10**6, 10**6), (0, 0))
    torch.save({'state_dict': {'weight': huge}}, tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match='claims 1,000,000,000,000 values'):
        READERS[reader](tmp_path / 'a.pth')


def test_text_in_a_checkpoint_is_not_run(tmp_path, monkeypatch, capsys):
    """mmengine's resume makes a config, which is Python, of what meta holds."""
    monkeypatch.chdir(tmp_path)
    tiny_run(tmp_path / 'run', custom_hooks=[], epochs=1)
    path, content = files.newest_whole(tmp_path / 'run')
    code = f"open({MARK!r}, 'w')\n"
    content['meta'] |= {'config': code, 'cfg': code}
    content['message_hub']['runtime_info']['cfg'] = code
    torch.save(content, path)
    path.with_name(f'{path.name}.sha256').unlink()
    tiny_run(tmp_path / 'run', resume=True, custom_hooks=[], epochs=2)
    assert 'The config has changed' in capsys.readouterr().out
    assert not (tmp_path / MARK).exists()


def test_a_log_survives_being_read():
    log = HistoryBuffer([1.0, 3.0], [1, 1])
    again = loads(saved(log))
    assert type(again) is HistoryBuffer
    assert again.mean() == 2.0
    assert again.statistics('max') == 3.0
    assert again.max_length == log.max_length


RESULT = {
    'boxes': np.arange(8, dtype='float32').reshape(2, 4),
    'labels': np.array([1, 2]),
    'masks': [{'size': [3, 4], 'counts': b'52'}],
    'score': np.float64(0.25),
    'nothing': None,
    'pixels': torch.arange(3),
}


def test_results_survive_the_exchange():
    again = loads(dumps(RESULT))
    assert again.keys() == RESULT.keys()
    for key in ('boxes', 'labels'):
        np.testing.assert_array_equal(again[key], RESULT[key])
        assert again[key].dtype == RESULT[key].dtype
    assert again['masks'] == RESULT['masks']
    assert again['score'] == 0.25
    assert torch.equal(again['pixels'], RESULT['pixels'])


def test_arrays_of_numpy_1_are_read():
    """Its checkpoints name the module of numpy's functions differently."""
    content = {'array': np.arange(3), 'number': np.float64(0.5)}
    data = saved(content, _use_new_zipfile_serialization=False)
    old = data.replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
    assert old != data
    again = loads(old)
    np.testing.assert_array_equal(again['array'], content['array'])
    assert again['number'] == 0.5


@pytest.mark.parametrize('name', HOSTILE)
def test_nothing_of_a_hostile_result_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        loads(HOSTILE[name]())
    assert not (tmp_path / MARK).exists()


def exchanging(folder: Path) -> None:
    dist.init_process_group('gloo')
    rank = dist.get_rank()
    gather.CHUNK = 100  # several messages each
    parts = gather.gather([rank] * 50 * rank)
    assert (parts is None) == (rank > 0)
    if parts is not None:
        assert parts == [[rank] * 50 * rank for rank in range(3)]
    found = gather.broadcast({'mAP': 0.5} if rank == 0 else None)
    assert found == {'mAP': 0.5}

    class Listing(gather.DataOnlyMetric):
        default_prefix = 'all'

        def process(self, data_batch, data_samples) -> None:
            self.results.extend(data_samples)

        def compute_metrics(self, results) -> dict:
            return {'order': [int(r['id']) for r in results]}

    metric = Listing()
    # eight samples dealt out to three processes, the first one twice to come out even
    metric.process(None, [{'id': torch.tensor(i % 8)} for i in range(rank, 9, 3)])
    assert metric.evaluate(8) == {'all/order': list(range(8))}
    assert metric.results == []
    (folder / f'done{rank}').touch()


def test_results_of_several_processes(tmp_path):
    for process in processes.start(exchanging, tmp_path, [{'folder': tmp_path}] * 3):
        process.join(60)
        assert process.exitcode == 0, (tmp_path / 'out0').read_text()
    assert len(list(tmp_path.glob('done*'))) == 3
