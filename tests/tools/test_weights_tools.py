"""tools/weights.py as a user runs it."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from backbones import Roadmap
from backbones.convnext.classifier import classifier_of
from backbones.convnext.weight_names import translate
from backbones.roadmap.classifier import RoadmapClassifier


def test_list_and_show(tool):
    result = tool('weights', 'list', 'convnextv2-*')
    assert result.code == 0
    assert 'convnextv2-huge_fcmae-in22k-in1k-512' in result.out
    assert 'CC-BY-NC-4.0' in result.out
    assert 'convnext-tiny_in1k' not in result.out
    result = tool('weights', 'show', 'convnext-tiny_in1k')
    assert 'convnext_tiny_1k_224.pth' in result.out
    assert 'not known here' in result.out
    assert tool('weights', 'show', 'convnext-tiny').code == 2
    assert tool('weights', 'list', 'beit*').code == 2


@pytest.mark.parametrize('name', ['convnext_atto', 'convnextv2_atto'])
def test_inspect_convert_and_check_predict_what_the_original_does(name, tool, tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=1000).eval()
    for parameter in theirs.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    source = tmp_path / f'{name}.safetensors'
    save_file(theirs.state_dict(), source)

    result = tool('weights', 'inspect', source)
    family = 'ConvNeXtV2 atto' if 'v2' in name else 'ConvNeXt atto'
    assert f'network: {family}' in result.out
    assert 'layout: timm' in result.out
    assert 'classes: 1000' in result.out

    for suffix in ('.pth', '.safetensors'):
        out = tmp_path / f'converted{suffix}'
        result = tool('weights', 'convert', source, out)
        assert result.code == 0, result.err
        state = torch.load(out)['model'] if suffix == '.pth' else load_file(out)
        image = torch.randn(2, 3, 96, 96)
        with torch.no_grad():
            ours, expected = classifier_of(state)(image), theirs(image)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())

    picture = tmp_path / 'picture.jpg'
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 256, (90, 120, 3)))
    result = tool('weights', 'check', source, out, '--image', picture, '--resolution', 64)
    assert result.code == 0, result.err
    assert 'largest difference of logits' in result.out
    assert float(result.out.rsplit(' ', 1)[1]) == 0
    assert result.out.count(' %  ') == 10


def test_an_encoder_is_checked_whole(tool, tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model('convnextv2_atto', num_classes=0).eval()
    for parameter in theirs.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    # As timm's hub of the released file: without norm and head.
    body = {k: v for k, v in theirs.state_dict().items() if not k.startswith('head')}
    save_file(body, tmp_path / 'encoder.safetensors')
    decoder = {'mask_token': torch.zeros(1, 12, 1, 1), 'pred.bias': torch.zeros(3072)}
    official = {k: v.contiguous() for k, v in translate(body).tensors.items()}
    torch.save(official | decoder, tmp_path / 'whole.pth')
    files = [tmp_path / 'encoder.safetensors', tmp_path / 'whole.pth']
    result = tool('weights', 'check', *files, '--resolution', 64)
    assert result.code == 0, result.err
    assert f'ConvNeXtV2 atto without a classifier, whole: {len(body)} tensors' in result.out
    assert 'beside it the decoder of FCMAE: 12 channels, 0 blocks, patches of 3072' in result.out
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stages = theirs.forward_intermediates(pixels, intermediates_only=True)
    lines = re.findall(r'stride +(\d+): +(\d+) channels, mean +(\S+), std (\S+)', result.out)
    assert len(lines) == 2 * len(stages)
    for line, expected in zip(lines, stages):
        assert [int(n) for n in line[:2]] == [64 // expected.shape[-1], expected.shape[1]]
        assert float(line[2]) == pytest.approx(
            float(expected.mean()), abs=0.01 * float(expected.std())
        )
        assert float(line[3]) == pytest.approx(float(expected.std()), rel=0.01)
    assert 'largest difference of features' in result.out
    assert float(result.out.rsplit(' ', 1)[1]) == 0

    del official['stages.2.3.norm.weight']
    torch.save(official, tmp_path / 'part.pth')
    result = tool('weights', 'check', tmp_path / 'part.pth')
    assert result.code == 2
    assert '1 missing: stages.2.3.norm.weight' in result.err
    assert 'decoder: of FCMAE, 12 channels' in tool('weights', 'inspect', files[1]).out


def test_bad_words_are_explained(tool, tmp_path):
    torch.save({'conv1.weight': torch.zeros(2, 3, 7, 7)}, tmp_path / 'resnet.pth')
    for words, message in [
        (['inspect', 'nowhere.pth'], 'is no file and no name'),
        (['convert', tmp_path / 'resnet.pth', tmp_path / 'a.pth'], 'is not a ConvNeXt checkpoint'),
        (['convert', tmp_path / 'resnet.pth', tmp_path / 'a.onnx'], 'must end in .safetensors'),
        (['check', tmp_path / 'resnet.pth'], 'it is not a classifier'),
    ]:
        result = tool('weights', *words)
        assert result.code == 2
        assert message in result.err
    assert not (tmp_path / 'a.pth').exists()


def test_check_gives_the_logits_of_a_step_of_the_roadmap(tool, tmp_path):
    """The file does not say which step it is of; two steps give two predictions."""
    torch.manual_seed(0)
    model = RoadmapClassifier(Roadmap('kernel-7', 'atto'), num_classes=6).eval()
    source = tmp_path / 'mine.pth'
    torch.save({'model': {f'module.{k}': v for k, v in model.state_dict().items()}}, source)
    words = ['check', source, '--resolution', '64', '--backbone']
    result = tool('weights', *words, 'roadmap-kernel-7-atto')
    assert result.code == 0, result.err
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        score, index = model(pixels)[0].softmax(0).max(0)
    assert result.out.splitlines()[1].split() == [f'{100 * score:.2f}', '%', 'class', f'{index}']
    other = tool('weights', *words, 'roadmap-gelu-atto')
    assert other.code == 0
    assert other.out != result.out
    for name, message in (
        ('roadmap-width-atto', 'does not match this RoadmapClassifier'),
        ('roadmap-kernel-9', 'known: resnet, stage-ratio'),
    ):
        result = tool('weights', *words, name)
        assert result.code == 2
        assert message in result.err
    save_file(Roadmap('gelu', 'atto').state_dict(), tmp_path / 'body.safetensors')
    words[1] = tmp_path / 'body.safetensors'
    assert 'has no head' in tool('weights', *words, 'roadmap-gelu-atto').err


class Marker:
    """Its pickle writes a file when it is loaded: code of whoever made a checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.path, 'ran')


def test_a_checkpoint_that_runs_code_needs_trust(tool, tmp_path):
    torch.manual_seed(0)
    state = timm.create_model('convnext_atto', num_classes=10).state_dict()
    ran, source = tmp_path / 'ran', tmp_path / 'theirs.pth'
    torch.save({'model': state, 'args': Marker(ran)}, source)
    commands = {
        'inspect': ['inspect', source],
        'convert': ['convert', source, tmp_path / 'a.safetensors'],
        'check': ['check', source, '--resolution', 32],
    }
    for words in commands.values():
        result = tool('weights', *words)
        assert result.code == 2
        assert re.search(r'holds more than data .* --trust-checkpoint', result.err)
        assert result.err.count('\n') == 1
    assert not ran.exists()
    assert not (tmp_path / 'a.safetensors').exists()
    for words in commands.values():
        result = tool('weights', *words, '--trust-checkpoint')
        assert result.code == 0, result.err
        assert ran.read_text() == 'ran'
        ran.unlink()
    written = load_file(tmp_path / 'a.safetensors')
    assert torch.equal(written['stages.0.0.gamma'], state['stages.0.blocks.0.gamma'])
