"""Accuracy of one small network under our corruptions and under the reference's, on real 64 px images.

python tests/reference/equal_hardness.py FOLDER_OF_REAL_IMAGES [OUT.csv [NAME ...]] prints the table, of all corruptions
or of those named; at 64 px the reference uses the parameters for 224 px, and so do ours here (`scale="imagenet"`).
"""

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
DRAWS, GLASS_IMAGES = 3, 200


def trained_network(folder, out):
    """A small network, trained by Murk's own training on 12 classes of vehicles, and its test images."""
    from study.config import TrialConfig
    from study.data.prepare import prepare_data
    from study.ledger import TrialSpec, trial_key
    from study.trained import load_model
    from study.trial import run_trial

    data = {"source": "parquet", "path": str(folder / "tiny-imagenet-vehicles12.parquet"), "image_size": 64}
    config = TrialConfig.model_validate({
        "data": data, "model": {"backbone": "test_resnet"},
        "optim": {"lr": 0.05, "sam": {"rho": 0.0}},
        "train": {"epochs": 20, "batch_size": 64, "augment": {"crop_padding": 6}},
        "noise": {"train": ["gaussian_blur", "speckle_noise"], "allow_overlap": True},
    })  # fmt: skip
    splits = prepare_data(config.data, cache_dir=out / "cache")
    spec = TrialSpec(
        key=trial_key(config, fingerprint=splits.fingerprint, role="search"), study="hardness", phase="search",
        role="search", number=0, seed=0, config=config.model_dump(mode="json"), fingerprint=splits.fingerprint,
        storage=str(out), cache_dir=str(out / "cache"),
    )  # fmt: skip
    run_trial(spec)
    return load_model(f"hardness/{spec.key}", storage=str(out)).method, splits.test


def main(folder: Path, out: Path, names: list[str]) -> None:
    """Train, evaluate every cell under both, print and write the table."""
    import numpy as np
    import pandas as pd
    import torch

    from noise.corruption import corrupt
    from noise.keyed import image_keys
    from tests.reference.corruptions import COMMON, EXTRA, reference

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        method, test = trained_network(folder, Path(scratch))
        method.network.eval()
        images, labels = np.array(test.images), torch.from_numpy(np.array(test.labels))
    clean_BCHW = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255

    def accuracy(noisy_BCHW: torch.Tensor, truth: torch.Tensor) -> float:
        return float((method.predict(noisy_BCHW).argmax(1) == truth).float().mean())

    print(f"{len(labels)} test images, clean {accuracy(clean_BCHW, labels):.3f}", flush=True)
    rows = []
    for name in names or [*COMMON, *EXTRA]:
        count = GLASS_IMAGES if name == "glass_blur" else len(labels)
        for severity in range(1, 6):
            pairs = []
            for draw in range(1 if name == "glass_blur" else DRAWS):
                keys_B = image_keys(range(count), seed=draw)
                ours = corrupt(clean_BCHW[:count], name, severity, keys=keys_B, scale="imagenet")
                theirs = np.stack([
                    reference(image, name, severity, seed=100_000 * draw + i) for i, image in enumerate(images[:count])
                ])  # fmt: skip
                theirs = torch.from_numpy(theirs).permute(0, 3, 1, 2).contiguous()
                pairs.append((accuracy(ours, labels[:count]), accuracy(theirs, labels[:count])))
            mean = np.mean(pairs, axis=0)
            rows.append((name, severity, count, len(pairs), *mean, mean[0] - mean[1]))
            print(*rows[-1][:4], *(f"{value:.4f}" for value in rows[-1][4:]), flush=True)
    columns = ["corruption", "severity", "images", "draws", "ours", "reference", "difference"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.to_csv(out, index=False)
    plain = frame[~frame["corruption"].isin(["frost", "glass_blur"])]["difference"].abs()
    print(f"{time.strftime('%Y-%m-%d')} without frost and glass: mean {plain.mean():.4f}, largest {plain.max():.4f}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "hardness.csv"), sys.argv[3:])
