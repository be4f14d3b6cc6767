"""Write docs/noise-agreement.md: python tests/reference/write_agreement.py FOLDER_OF_REAL_IMAGES [NAME ...].

With names only the rows of these corruptions are measured anew.
"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main(folder: Path, names: list[str]) -> None:
    """Measure all corruptions, or these, and write the table."""
    import cv2
    import torch

    from tests.reference.agreement import DEPARTURES, DETERMINISTIC, DRAWS, agreement, photographs, table
    from tests.reference.corruptions import COMMON, EXTRA

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    images = photographs(folder)
    place = ROOT / "docs" / "noise-agreement.md"
    text = place.read_text(encoding="utf-8")
    lines = []
    for name in COMMON + EXTRA:
        if names and name not in names:
            lines += [line for line in text.splitlines() if line.startswith(f"| {name} |") and line.count("|") > 10]
            continue
        count = 8 if name == "glass_blur" else len(images)
        draws = DRAWS.get(name, 1)
        frame = table([agreement(images[:count], name, severity, draws=draws) for severity in range(1, 6)])
        kind = "on purpose" if name in DEPARTURES else "deterministic" if name in DETERMINISTIC else "random"
        for row in frame.itertuples():
            between = f"{row.between:.2f}" if name in DETERMINISTIC else ""
            lines.append(
                f"| {name} | {row.severity} | {kind} | {count} x {draws} | {row.change:.2f} | "
                f"{row.change_reference:.2f} | {row.change_ratio:.3f} | {row.psnr:.2f} | {row.psnr_reference:.2f} | "
                f"{row.psnr_difference:+.2f} | {between} | {row.histogram:.3f} | {row.spectrum:.2f} |"
            )
        print(name, flush=True)
    head, _, rest = text.partition("<!-- table -->\n")
    _, _, tail = rest.partition("<!-- end of table -->\n")
    columns = ("corruption", "severity", "kind", "images x draws", "change", "reference", "ratio", "PSNR", "reference",
               "difference", "pixel by pixel", "histogram", "spectrum")  # fmt: skip
    rule = "|".join("---" if column in {"corruption", "kind"} else "---:" for column in columns)
    stamp = f"Measured {time.strftime('%Y-%m-%d', time.gmtime())}.\n\n"
    whole = [f"| {' | '.join(columns)} |", f"|{rule}|", *lines]
    place.write_text(
        f"{head}<!-- table -->\n{stamp}{chr(10).join(whole)}\n<!-- end of table -->\n{tail}", encoding="utf-8"
    )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(Path(sys.argv[1]), sys.argv[2:])
