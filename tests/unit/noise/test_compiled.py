"""The compiled form gives the plain one's pixels, and gives way to it where a compiler fails."""

import logging
import shutil

import pytest
import torch

from noise.compiled import CompiledOp, compiled_op
from noise.corruption import corrupt
from noise.families import find
from noise.keyed import image_keys
from tests.unit.noise.pictures import scenes


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["gaussian_noise", "impulse_noise", "contrast"])
def test_compiled_pixels_are_the_plain_ones(name):
    images_BCHW, keys_B = scenes(4, 32, 40), image_keys(range(4), seed=0)
    for severity in (3, 5):
        plain, compiled = (corrupt(images_BCHW, name, severity, keys=keys_B, compiled=way) for way in (False, True))
        assert (plain - compiled).abs().max() < 1e-5
    assert compiled_op(find(name).op).is_compiled


def test_a_failing_compiler_gives_way_to_the_plain_function(monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    op, images_BCHW, keys_B = find("contrast").op, scenes(2, 16, 16), image_keys(range(2), seed=0)
    compiled = CompiledOp(op)
    with caplog.at_level(logging.WARNING, logger="murk"):
        results = [compiled(images_BCHW, 0.3, keys_B=keys_B) for _ in range(2)]
    assert torch.equal(results[0], op(images_BCHW, 0.3, keys_B=keys_B))
    assert torch.equal(results[1], results[0])
    assert len(caplog.records) == 1
    assert not compiled.is_compiled


def test_an_error_of_the_function_itself_is_raised(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda op, **_: op)
    with pytest.raises(TypeError):
        CompiledOp(find("contrast").op)(scenes(1, 16, 16), "much", keys_B=image_keys([0], seed=0))
