"""What a run says at its end: the headline as plain text."""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false

from analysis.adapted import adapted_lines
from analysis.contrasts import endpoint_title, joint_text
from analysis.fronts import front_lines
from analysis.scores import Headline
from analysis.sides import noise_word
from analysis.tables import Table, real_text


def terminal(
    found: Headline, accuracy: Table, contrasts: Table, adapted: Table | None = None, pareto: Table | None = None,
    *, unfinished: str = "",
) -> str:  # fmt: skip
    """The headline as plain text, for the end of a run.

    Args:
        adapted: where BatchNorm was adapted to the test images.
        pareto: the front of a search of several objectives.
        unfinished: which phases have not ended, in a sentence.
    """
    if accuracy.frame.empty:
        return " ".join(part for part in (unfinished, found.empty) if part)
    word = noise_word(found)
    wanted = ("configuration", "clean", f"mean {word}", "worst", "mCE", f"ECE {word}", "flips", "passes", "seeds")
    columns = [column for column in accuracy.columns if column.title in wanted]
    lines = [[column.title for column in columns]]
    lines += [[column.text(row) for column in columns] for _, row in accuracy.frame.iterrows()]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    title = "accuracy in % on the test images" if found.split == "test" else (
        "accuracy in % on VALIDATION images: the best trial of each method, chosen by these very figures"
    )  # fmt: skip
    text = [*([unfinished] if unfinished else []), f"{title} [95 % interval]"]
    for line in lines:
        cells = [cell.ljust(w) if not c.is_number else cell.rjust(w)
                 for cell, w, c in zip(line, widths, columns, strict=True)]  # fmt: skip
        text.append("  ".join(cells).rstrip())
    for _, row in contrasts.frame.iterrows():
        gap = f"{row['difference'] * 100:+.1f} points ({joint_text(row)})"
        where = endpoint_title(row["endpoint"], noise=word)
        text.append(f"{where}: {row['label']} against {row['baseline']} {gap}: {row['verdict']}")
    for name in found.real:
        shown = "; ".join(f"{row['label']} {real_text(name)(row)}" for _, row in accuracy.frame.iterrows())
        text.append(f"real images {name} (in no mean): {shown}")
    front = [] if pareto is None else front_lines(pareto)
    return "\n".join([*text, *adapted_lines(adapted, word), *front])
