"""The command line: `murk` or `python -m murk`. Mounts the rooms' sub-commands; heavy imports stay inside them."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

ROOMS = ("noise", "models", "study", "analysis", "cluster")


def check_rooms() -> None:
    """Refuse to start when a stranger's package of the same name stands before one of ours on the path.

    Raises:
        SystemExit: With the package's place and the way out; exit code 2.
    """
    home = Path(__file__).resolve().parent
    for room in ROOMS:
        found = find_spec(room)
        origin = None if found is None or found.origin is None else Path(found.origin).resolve()
        if origin is None or origin.parent.parent != home:
            print(
                f"murk: the package {room!r} must be Murk's own beside {home.name}/murk.py, but Python finds "
                f"{origin or 'none'}; uninstall that package or start murk from its own folder",
                file=sys.stderr,
            )
            raise SystemExit(2)


def main() -> None:
    """Run the command line."""
    check_rooms()
    from cluster.cli import mount
    from study.cli import app

    mount(app)
    app(prog_name="murk")


if __name__ == "__main__":
    main()
