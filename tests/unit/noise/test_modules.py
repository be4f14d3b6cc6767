"""Our noise inside Kornia's containers: keys, replay, what passes unchanged, copies and data workers."""

import copy
import doctest
import pickle

import kornia.augmentation as K
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from noise import modules
from noise.corruption import corrupt
from noise.families import CORRUPTIONS
from noise.keyed import fold_in, image_keys
from noise.modules import Corrupt, Noise, keyed_by, noisy_pair
from noise.training import NoiseType, TrainingNoise
from tests.unit.noise.pictures import scenes

_IMAGES_BCHW = scenes(6, 32, 32)
_MASKS_BCHW = (scenes(6, 32, 32, channels=1, seed=1) > 0.4).float()
_KEYS_6 = image_keys(range(6), seed=0)
_MIXTURE = TrainingNoise([NoiseType("gaussian_noise", (1, 3), 0.5), NoiseType("pmal_pair", (1,), 0.3)])


def _views(*noise, **more):
    """A chain of Kornia's own with ours between; `data_keys` as given, image and mask by default."""
    more = {"data_keys": ["input", "mask"], **more}
    noise = noise or (Corrupt("shot_noise", (1, 2, 3), p=0.5),)
    return K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5), *noise, K.ColorJitter(0.2, 0.2, 0.2, 0.1, p=0.5), **more
    )


def test_the_documented_example_runs():
    result = doctest.testmod(modules)
    assert result.attempted > 5
    assert result.failed == 0


@pytest.mark.parametrize("severity", [1, 5])
def test_given_keys_give_the_pixels_of_corrupt(severity):
    module = Corrupt("shot_noise", severity, p=1.0)
    with keyed_by(module, _KEYS_6):
        noisy = module(_IMAGES_BCHW)
    assert torch.equal(noisy, corrupt(_IMAGES_BCHW, "shot_noise", severity, keys=_KEYS_6))


def test_given_keys_make_batch_and_order_irrelevant():
    module = Corrupt("gaussian_noise", (1, 3, 5), p=0.7)
    with keyed_by(module, _KEYS_6):
        together = module(_IMAGES_BCHW)
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        with keyed_by(module, _KEYS_6[part]):
            assert torch.equal(module(_IMAGES_BCHW[part]), together[part])
    with keyed_by(module, _KEYS_6.flip(0)):
        assert torch.equal(module(_IMAGES_BCHW.flip(0)).flip(0), together)


def test_the_next_draw_within_the_same_keys_is_another():
    module = Corrupt("gaussian_noise", 3, p=1.0)
    twice = K.ImageSequential(module, copy.deepcopy(module))
    flat_BCHW = torch.full((6, 3, 32, 32), 0.5)
    with keyed_by(twice, _KEYS_6):
        both = twice(flat_BCHW) - 0.5
    with keyed_by(module, _KEYS_6):
        first, second = module(flat_BCHW) - 0.5, module(flat_BCHW) - 0.5
    with keyed_by(module, _KEYS_6):
        again = module(flat_BCHW) - 0.5
    assert torch.equal(first, again)
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.02
    assert torch.allclose(both, first + second, atol=1e-6)


def test_neighbours_of_other_names_decide_by_themselves():
    keys_B = image_keys(range(2000), seed=0)
    pair = [Corrupt("gaussian_noise", (1, 2), p=0.5), Corrupt("contrast", (1, 2), p=0.5)]
    with keyed_by(torch.nn.ModuleList(pair), keys_B):
        first, second = (module.forward_parameters((2000, 3, 8, 8)) for module in pair)
    for what in ("batch_prob", "severity"):
        both = torch.stack([first[what].double(), second[what].double()])
        assert abs(torch.corrcoef(both)[0, 1]) < 5 / 2000**0.5


def test_counted_keys_go_on_and_start_again_with_a_seed():
    module = Corrupt("gaussian_noise", 3, p=1.0, seed=4)
    first, second = module(_IMAGES_BCHW), module(_IMAGES_BCHW)
    assert not torch.equal(first, second)
    saved = module.state_dict()
    third = module(_IMAGES_BCHW)
    fresh = Corrupt("gaussian_noise", 3, p=1.0)
    fresh.load_state_dict(saved)
    assert torch.equal(fresh(_IMAGES_BCHW), third)
    module.reseed(4)
    assert torch.equal(module(_IMAGES_BCHW), first)
    module.reseed(5)
    assert not torch.equal(module(_IMAGES_BCHW), first)
    module.reseed(4)
    assert torch.equal(torch.cat([module(_IMAGES_BCHW[:2]), module(_IMAGES_BCHW[2:])]), first)


def test_no_module_touches_the_global_generator():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    Corrupt("gaussian_noise", p=0.5)(_IMAGES_BCHW)
    Noise(_MIXTURE)(_IMAGES_BCHW)
    noisy_pair(K.ImageSequential(Noise(_MIXTURE)), _IMAGES_BCHW)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("noise", [Corrupt("shot_noise", p=0.5), Corrupt("kornia.rain", 3, p=1.0), Noise(_MIXTURE)])
def test_a_containers_params_replay_it(noise):
    views = _views(noise)
    noisy, masks = views(_IMAGES_BCHW, _MASKS_BCHW)
    params = views._params
    other, _ = views(_IMAGES_BCHW, _MASKS_BCHW)
    again, masks_again = views(_IMAGES_BCHW, _MASKS_BCHW, params=params)
    assert not torch.equal(other, noisy)
    assert torch.equal(again, noisy)
    assert torch.equal(masks_again, masks)
    # The replay follows the params, not the images.
    changed, _ = views(_IMAGES_BCHW.flip(-2), _MASKS_BCHW, params=params)
    assert not torch.equal(changed, noisy)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_the_stated_share_of_images_is_changed(p):
    images_BCHW = torch.full((1000, 1, 8, 8), 0.5)
    changed = (Corrupt("gaussian_noise", 3, p=p)(images_BCHW) != images_BCHW).flatten(1).any(1)
    assert changed.double().mean().item() == pytest.approx(p, abs=0.08 if p == 0.5 else 0)


def test_severities_are_drawn_evenly_and_alone():
    params = Corrupt("contrast", (1, 4), p=1.0).forward_parameters((1000, 3, 8, 8))
    assert set(params["severity"].tolist()) == {1, 4}
    assert (params["severity"] == 1).double().mean().item() == pytest.approx(0.5, abs=0.08)


def test_same_on_batch_gives_all_images_one_draw():
    images_BCHW = _IMAGES_BCHW[:1].expand(6, 3, 32, 32)
    for module in (Corrupt("gaussian_noise", (1, 5), p=0.5, same_on_batch=True), Noise(_MIXTURE, same_on_batch=True)):
        shares = set()
        for _ in range(40):
            noisy = module(images_BCHW)
            assert torch.equal(noisy, noisy[:1].expand_as(noisy))
            shares.add(torch.equal(noisy, images_BCHW))
        assert shares == {False, True}
    views = _views(same_on_batch=True)
    assert views[1].same_on_batch


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("mask", _MASKS_BCHW),
        ("bbox_xyxy", torch.tensor([[[1.0, 2.0, 9.0, 12.0]]]).expand(6, 1, 4)),
        ("bbox", torch.tensor([[[[1.0, 1.0], [9.0, 1.0], [9.0, 6.0], [1.0, 6.0]]]]).expand(6, 1, 4, 2)),
        ("keypoints", torch.tensor([[[3.0, 4.0]]]).expand(6, 1, 2)),
        ("class", torch.arange(6)),
    ],
)
@pytest.mark.parametrize("noise", [Corrupt("kornia.motion_blur", 5, p=0.5), Noise(_MIXTURE)])
def test_masks_boxes_points_and_classes_pass_unchanged(kind, value, noise):
    noisy, out = K.AugmentationSequential(noise, data_keys=["input", kind])(_IMAGES_BCHW, value)
    assert torch.equal(torch.as_tensor(out).to(value.dtype), value)
    assert not torch.equal(noisy, _IMAGES_BCHW)


def test_masks_follow_kornias_flip_and_not_the_noise():
    views = K.AugmentationSequential(K.RandomHorizontalFlip(p=1.0), Corrupt("shot_noise", 5, p=1.0),
                                     data_keys=["input", "mask"])  # fmt: skip
    with keyed_by(views, _KEYS_6):
        noisy, masks = views(_IMAGES_BCHW, _MASKS_BCHW)
    assert torch.equal(masks, _MASKS_BCHW.flip(-1))
    assert torch.equal(noisy, corrupt(_IMAGES_BCHW.flip(-1), "shot_noise", 5, keys=_KEYS_6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_type_of_the_images_is_kept(dtype):
    module = Corrupt("gaussian_noise", 2, p=0.5)
    with keyed_by(module, _KEYS_6):
        noisy = module(_IMAGES_BCHW.to(dtype))
    with keyed_by(module, _KEYS_6):
        expected = module(_IMAGES_BCHW.to(dtype).float())
    assert noisy.dtype == dtype
    assert torch.equal(noisy, expected.to(dtype))
    assert Noise(_MIXTURE)(_IMAGES_BCHW.to(dtype)).dtype == dtype


def test_strides_grey_single_and_empty_batches_pass():
    views = _views()
    with keyed_by(views[1], _KEYS_6):
        plain = views[1](_IMAGES_BCHW)
    with keyed_by(views[1], _KEYS_6):
        strided = views[1](_IMAGES_BCHW.to(memory_format=torch.channels_last))
    assert torch.allclose(strided, plain, atol=1e-6)
    assert views(_IMAGES_BCHW[:0], _MASKS_BCHW[:0])[0].shape == (0, 3, 32, 32)
    grey = K.AugmentationSequential(K.RandomVerticalFlip(), Corrupt("kornia.jpeg", p=0.5), Noise(_MIXTURE))
    assert grey(_IMAGES_BCHW[:, :1]).shape == (6, 1, 32, 32)
    assert Corrupt("contrast", p=1.0, keepdim=True)(_IMAGES_BCHW[0]).shape == (3, 32, 32)


def test_values_outside_the_range_are_clamped():
    module = Corrupt("contrast", 1, p=1.0)
    assert torch.equal(module(_IMAGES_BCHW * 3 - 1), module((_IMAGES_BCHW * 3 - 1).clamp(0, 1)))


def test_the_gradient_of_additive_noise_is_whole():
    images_BCHW = torch.full((6, 3, 16, 16), 0.5, requires_grad=True)
    Corrupt("gaussian_noise", 1, p=0.5)(images_BCHW).sum().backward()
    assert images_BCHW.grad is not None
    assert images_BCHW.grad.double().mean() > 0.99
    counted = torch.full((6, 3, 16, 16), 0.5, requires_grad=True)
    module = Corrupt("shot_noise", 1, p=0.5)
    noisy = module(counted)
    noisy.sum().backward()
    assert counted.grad is not None
    assert torch.equal(counted.grad.amax((1, 2, 3)), 1 - module._params["batch_prob"])


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_images_that_want_a_gradient_pass(name):
    images_BCHW = scenes(2, 16, 16).requires_grad_()
    Corrupt(name, 3, p=0.5)(images_BCHW).sum().backward()
    assert images_BCHW.grad is not None
    assert images_BCHW.grad.isfinite().all()


def test_copies_draw_the_same_and_apart():
    views = _views()
    views(_IMAGES_BCHW, _MASKS_BCHW)
    for twin in (copy.deepcopy(views), pickle.loads(pickle.dumps(views))):
        with keyed_by(twin, _KEYS_6), keyed_by(views, _KEYS_6):
            assert torch.equal(twin[1](_IMAGES_BCHW), views[1](_IMAGES_BCHW))
        assert twin[1].num_seen == views[1].num_seen == 6
    with keyed_by(views, _KEYS_6):
        twin = pickle.loads(pickle.dumps(views))
    assert "shot_noise" in repr(twin)


class _Seen(Dataset):
    """Each item under noise made in the worker: with the item's key, or counted."""

    def __init__(self, keyed: bool) -> None:
        self.module, self.keyed = Corrupt("gaussian_noise", (1, 5), p=1.0), keyed

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        flat_BCHW = torch.full((1, 1, 8, 8), 0.5)
        if not self.keyed:
            return self.module(flat_BCHW)[0]
        with keyed_by(self.module, image_keys([index], seed=0)):
            return self.module(flat_BCHW)[0]


def test_data_workers_make_the_same_noise_from_keys_and_their_own_from_counts():
    alone = torch.cat(list(DataLoader(_Seen(True), batch_size=2)))
    shared = torch.cat(list(DataLoader(_Seen(True), batch_size=2, num_workers=2)))
    assert torch.equal(shared, alone)
    counted = torch.cat(list(DataLoader(_Seen(False), batch_size=2, num_workers=2)))
    assert len(counted.flatten(1).unique(dim=0)) == 8


def test_noise_takes_its_mixtures_pixels():
    module = Noise(_MIXTURE)
    with keyed_by(module, _KEYS_6):
        noisy = module(_IMAGES_BCHW)
    pair = _MIXTURE(_IMAGES_BCHW, _KEYS_6)
    assert torch.equal(noisy, pair.input_BCHW)
    assert torch.equal(module.record["kind"], pair.record["kind"])


def test_a_noisy_pair_shares_flips_and_colour():
    flips = [K.RandomHorizontalFlip(p=0.5), K.RandomVerticalFlip(p=0.5)]
    views = K.AugmentationSequential(flips[0], Noise(_MIXTURE), flips[1], data_keys=["input", "mask"])
    pair = noisy_pair(views, _IMAGES_BCHW, _KEYS_6)
    params = views._params
    moved = _IMAGES_BCHW
    for flip, param in zip(flips, (params[0], params[2]), strict=True):
        flipped = _MIXTURE(moved, _KEYS_6).target_BCHW if flip is flips[1] else moved
        moved = flip(flipped, params=param.data)
    assert torch.allclose(pair.target_BCHW, moved, atol=1e-6)
    clean = pair.record["kind"] == -1
    assert torch.equal(pair.input_BCHW[clean], pair.target_BCHW[clean])
    assert not torch.equal(pair.input_BCHW[~clean], pair.target_BCHW[~clean])
    assert not any(each.as_target for each in (views[1],))


def test_a_noisy_pair_of_corruptions_has_the_clean_image_as_target():
    pair = noisy_pair(Corrupt("gaussian_noise", 3, p=1.0), _IMAGES_BCHW, _KEYS_6)
    assert torch.equal(pair.target_BCHW, _IMAGES_BCHW)
    assert torch.equal(pair.input_BCHW, corrupt(_IMAGES_BCHW, "gaussian_noise", 3, keys=_KEYS_6))
    assert pair.record == {}
    counted = noisy_pair(K.ImageSequential(Corrupt("gaussian_noise", 3, p=1.0)), _IMAGES_BCHW)
    assert torch.equal(counted.target_BCHW, _IMAGES_BCHW)


def test_frames_of_a_video_and_random_order_take_ours():
    video = K.VideoSequential(Corrupt("gaussian_noise", 3, p=1.0), data_format="BTCHW", same_on_frame=True)
    flat = torch.full((2, 3, 3, 16, 16), 0.5)
    noisy = video(flat)
    assert torch.equal(noisy[:, 0], noisy[:, 2])
    assert not torch.equal(noisy[0], noisy[1])
    drawn = K.ImageSequential(Corrupt("gaussian_noise", 1, p=1.0), Corrupt("contrast", 1, p=1.0), random_apply=5)
    with keyed_by(drawn, _KEYS_6):
        assert drawn(_IMAGES_BCHW).shape == _IMAGES_BCHW.shape


def test_a_repeated_draw_takes_folded_keys():
    module = Corrupt("contrast", 1)
    with keyed_by(module, _KEYS_6):
        first, second = (module.forward_parameters((6, 3, 8, 8))["keys"] for _ in range(2))
    assert torch.equal(first, _KEYS_6)
    assert torch.equal(second, fold_in(_KEYS_6, "again/1"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Corrupt("fuzz"), "no corruption is called 'fuzz'"),
        (lambda: Corrupt("contrast", 6), "severities must be 1 to 5, but got 6 for contrast"),
        (lambda: Corrupt("contrast", ()), r"severities must be 1 to 5, but got \(\)"),
        (lambda: Corrupt("contrast", p=1.5), "p must be 0 to 1, but got 1.5"),
        (lambda: Corrupt("contrast", scale="big"), "scale must be nearest"),
        (lambda: Corrupt("contrast", p=1.0)(torch.rand(1, 2, 16, 16)), "1 or 3"),
        (lambda: Corrupt("contrast", p=1.0)(torch.rand(1, 3, 16, 7)), "sides from 8 up"),
        (lambda: keyed_by(K.RandomHorizontalFlip(), _KEYS_6).__enter__(), "there must be a Corrupt or Noise"),
        (lambda: keyed_by(Corrupt("contrast"), _KEYS_6.int()).__enter__(), r"keys must be int64 of shape \(B\)"),
        (lambda: noisy_pair(_views(), _IMAGES_BCHW, _KEYS_6[:4]), "one key for each image, but got 4 for 6"),
    ],
)
def test_wrong_use_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
