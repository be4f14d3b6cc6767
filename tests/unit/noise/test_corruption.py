"""The public call: errors, tables by size, keys."""

import pytest
import torch

from noise import families
from noise.corruption import corrupt
from noise.families import CORRUPTIONS, FAMILIES, GROUPS, catalogue, catalogue_text, parameter_for, table_for
from noise.keyed import image_keys
from noise.preview import contact_sheet
from tests.unit.noise import quality
from tests.unit.noise.pictures import scenes

_IMAGES_BCHW = scenes(3, 32, 32)
_KEYS_3 = image_keys(range(3), seed=0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (_IMAGES_BCHW[0], r"images must be \(B, 1 or 3, H, W\), but got the shape \[3, 32, 32\]"),
        (_IMAGES_BCHW[:, :2], "1 or 3"),
        ((_IMAGES_BCHW * 255).byte(), "float32 or bfloat16 in .*, but got torch.uint8"),
        (_IMAGES_BCHW.double(), "torch.float64"),
        (_IMAGES_BCHW[..., :7], r"sides from 8 up, but got \[32, 7\]"),
        (_IMAGES_BCHW * 2 - 1, r"must lie in \[0, 1\], but go from -.* divide uint8 by 255"),
        (_IMAGES_BCHW * float("nan"), "nan"),
    ],
)
def test_wrong_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        corrupt(images, "contrast", 1, keys=_KEYS_3)


@pytest.mark.parametrize("keys", [_KEYS_3[:2], _KEYS_3.int(), _KEYS_3[:, None]])
def test_wrong_keys_are_refused(keys):
    with pytest.raises(ValueError, match=r"keys must be int64 of shape \(3,\).*image_keys"):
        corrupt(_IMAGES_BCHW, "contrast", 1, keys=keys)


def test_wrong_name_severity_and_scale_are_refused():
    with pytest.raises(ValueError, match=r"'gausian_noise'; near: gaussian_noise.*; there are brightness,"):
        corrupt(_IMAGES_BCHW, "gausian_noise", 1, keys=_KEYS_3)
    with pytest.raises(ValueError, match="severity must be a whole number from 1 to 5, but got 6"):
        corrupt(_IMAGES_BCHW, "contrast", 6, keys=_KEYS_3)
    with pytest.raises(ValueError, match="scale must be nearest, imagenet, tiny, cifar, but got 'big'"):
        corrupt(_IMAGES_BCHW, "contrast", 1, keys=_KEYS_3, scale="big")


def test_the_range_check_can_be_left_out():
    noisy = corrupt(_IMAGES_BCHW * 3, "contrast", 1, keys=_KEYS_3, check_range=False)
    assert noisy.max() <= 1


@pytest.mark.parametrize(
    ("side", "table"), [(8, "cifar"), (48, "cifar"), (49, "tiny"), (144, "tiny"), (145, "imagenet"), (600, "imagenet")]
)
def test_nearest_table_of_the_shorter_side(side, table):
    assert table_for("gaussian_noise", side) == table
    expected = CORRUPTIONS["gaussian_noise"].severities[table][2]
    assert parameter_for("gaussian_noise", 3, side) == expected


def test_lengths_without_a_table_follow_the_side():
    assert table_for("motion_blur", 224) == "imagenet"
    assert table_for("motion_blur", 64) == "scaled"
    assert table_for("motion_blur", 64, "imagenet") == "imagenet"
    assert parameter_for("motion_blur", 5, 112) == pytest.approx((10, 7.5))
    assert parameter_for("motion_blur", 1, 32) == pytest.approx((10 * 32 / 224, 1))
    assert parameter_for("motion_blur", 5, 500, "cifar") == pytest.approx((20 * 32 / 224, 15 * 32 / 224))
    assert parameter_for("motion_blur", 5, 32, "imagenet") == (20, 15)


def test_amplitudes_without_a_table_stay():
    assert table_for("contrast", 32) == table_for("contrast", 32, "tiny") == "imagenet"
    assert parameter_for("contrast", 2, 32) == 0.3


def test_the_shorter_side_decides():
    wide_BCHW = scenes(1, 32, 400)
    keys_1 = _KEYS_3[:1]
    nearest = corrupt(wide_BCHW, "gaussian_noise", 5, keys=keys_1)
    assert torch.equal(nearest, corrupt(wide_BCHW, "gaussian_noise", 5, keys=keys_1, scale="cifar"))


def test_seeds_names_and_severities_have_independent_noise():
    flat_BCHW = torch.full((1, 3, 64, 64), 0.5)
    asked = [
        (name, severity, seed)
        for name in ("gaussian_noise", "pmal_gaussian", "speckle_noise", "kornia.gaussian_noise")
        for severity in (1, 2, 3)
        for seed in (0, 1, -1)
    ]
    fields = torch.stack([
        corrupt(flat_BCHW, name, severity, keys=image_keys([5], seed=seed), scale="cifar").flatten() - 0.5
        for name, severity, seed in asked
    ])  # fmt: skip
    assert quality.is_fair(quality.all_pairs(fields.double().numpy()))
    assert quality.is_fair(quality.all_pairs(fields.abs().double().numpy()))
    # The statistic sees two noises in common among these many.
    assert not quality.is_fair(quality.all_pairs(torch.cat([fields, fields[:1]]).double().numpy()))


def test_every_group_is_known():
    assert {corruption.group for corruption in CORRUPTIONS.values()} <= set(GROUPS)


def test_contact_sheet_has_a_row_for_each_name():
    one = contact_sheet(_IMAGES_BCHW[:1], ["contrast"], [1, 5], key=_KEYS_3[:1])
    two = contact_sheet(_IMAGES_BCHW[:1], ["contrast", "jpeg_compression"], [1, 5], key=_KEYS_3[:1], diff=True)
    assert one.width == two.width
    assert two.height > one.height + 90


def test_the_catalogue_has_a_row_for_each_table_and_all_that_corrupt_would_take():
    rows = catalogue()
    assert len(rows) == sum(len(corruption.severities) for corruption in CORRUPTIONS.values())
    for row in rows:
        corruption = CORRUPTIONS[row.name]
        assert row.parameters == tuple(corruption.severities[row.table])
        assert (row.family, row.group, row.source) == (corruption.family, corruption.group, corruption.source)
        assert row.scaled == (corruption.scaled is not None)
    order = [FAMILIES.index(row.family) for row in rows]
    assert order == sorted(order)


def test_the_catalogue_takes_names_groups_and_families():
    assert {row.name for row in catalogue(["contrast"])} == {"contrast"}
    assert {row.group for row in catalogue(["blur"])} == {"blur"}
    assert {row.family for row in catalogue(["kornia", "pmal"])} == {"kornia", "pmal"}
    with pytest.raises(ValueError, match=r"no corruption is called 'blurr'; near: "):
        catalogue(["blurr"])


def test_the_catalogues_text_names_each_corruption_once_and_its_strengths():
    text = catalogue_text(catalogue(["gaussian_noise", "motion_blur"]))
    assert text.count("gaussian_noise") == 1
    assert "imagenet  0.08  0.12  0.18  0.26  0.38" in text
    assert "cifar     0.04  0.06  0.08  0.09  0.1\n" in text
    assert "(10, 3)  (15, 5)  (15, 8)  (15, 12)  (20, 15)  (lengths follow the side)" in text
    assert text.count("1903.12261") == 1
    assert catalogue_text([]).strip() == "sources"


def test_sets_of_names_are_spelled_out():
    assert len(families.SETS["common"]) == 15
    assert set(families.SETS["imagecorruptions"]) == {*families.SETS["common"], *families.SETS["extra"]}
    assert families.expand(["extra", "fog", "pmal", "nothing"]) == (
        "speckle_noise", "gaussian_blur", "spatter", "saturate", "fog", "pmal_gaussian", "nothing",
    )  # fmt: skip
    assert families.expand(["resolution"]) == ("resolution",), "a corruption's own name goes first"
    known = {name for names in families.SETS.values() for name in names} | {"resolution"}
    assert known >= {name for name in CORRUPTIONS if not name.startswith("resolution_")}
