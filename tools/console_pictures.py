"""Pictures of the console for its page.

First ``make console-test``, then ``python -m tools.console_pictures``.  The browser tests leave a
picture of every page in ``build/console``; those that the page shows are stored with few colours,
which makes them small.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TAKEN = ROOT / "build" / "console"
SHOWN = ROOT / "docs" / "figures"
NAMES = (
    "start-done-desktop-light",
    "ask-desktop-light",
    "edit-desktop-light",
    "edit-done-desktop-dark",
    "evaluation-desktop-light",
    "state-desktop-dark",
    "ask-empty-phone-dark",
    "history-desktop-light",
    "roll-back-desktop-light",
    "facts-checked-desktop-light",
    "fact-desktop-dark",
)
COLOURS = 128


def main() -> None:
    """Store the pictures."""
    for name in NAMES:
        with Image.open(TAKEN / f"{name}.png") as picture:
            small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
            target = SHOWN / f"console-{name}.png"
            small.save(target, optimize=True)
        print(f"{target.relative_to(ROOT)}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
