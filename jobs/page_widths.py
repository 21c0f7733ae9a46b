"""Whether a page of a report fits a phone and a desktop: what sticks out of it, in headless Chromium.

    python jobs/page_widths.py runs/first/report/index.html
    python jobs/page_widths.py runs/first/report/index.html --widths 390,1280 --pictures shots

Lists every element that reaches beyond the right edge of the page, every chart that is cut or has to be scrolled, every
text of a chart that is cut or smaller than 8 pixels, and every table that scrolls without saying so. Ends with exit code
1 if there is one, and with 2 where no Chromium is found ($CHROMIUM, or `chromium` and its other names on the path).

Cost: two seconds for each page and width.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTHS = (390, 1280)
_TIMEOUT_S = 60
# The page is shown in a frame of the wanted width: a window of Chromium is never narrower than 500 pixels.
_FRAME = Path(__file__).with_suffix(".html")


def chromium() -> str | None:
    """The browser's program, or None."""
    names = (os.environ.get("CHROMIUM"), *NAMES)
    return next((path for name in names if name and (path := shutil.which(name))), None)


def measure(browser: str, page: Path, width: int, picture: Path | None = None) -> list[str]:
    """What is wrong with a page at one width, in words; a picture of all of it where one is asked for.

    Raises:
        RuntimeError: the browser fails, or says nothing.
    """
    text = _shown(browser, page, width, 2_000, "true", "--dump-dom")
    hit = re.search(r'<pre id="found">(.*?)</pre>', text, flags=re.DOTALL)
    if hit is None or not hit[1]:
        raise RuntimeError(f"{page}: {browser} measured nothing: {text[:200]!r}")
    told = json.loads(html.unescape(hit[1]))
    if picture is not None:
        height = min(int(told["height"]), 16_000)
        _shown(browser, page, width, height, "false", f"--screenshot={picture.resolve()}")
    return [str(one) for one in told["found"]]


def _shown(browser: str, page: Path, width: int, height: int, opened: str, *options: str) -> str:
    """Standard output of the browser that shows the page in a frame."""
    parts = {"WIDTH": str(width), "HEIGHT": str(height), "OPEN": opened}
    whole = _FRAME.read_text(encoding="utf-8")
    for name, value in parts.items():
        whole = whole.replace(name, value)
    whole = whole.replace("PAGE", html.escape(page.read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(whole, encoding="utf-8")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                   f"--user-data-dir={folder}/profile", f"--window-size={max(width, 500)},{height}",
                   "--virtual-time-budget=5000", *options, frame.as_uri()]  # fmt: skip
        done = subprocess.run(  # noqa: S603 - a browser that the caller named, or that is on the path
            command, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    if done.returncode:
        raise RuntimeError(f"{browser} ended with {done.returncode}: {done.stderr[-300:]}")
    return done.stdout


def main(words: list[str] | None = None) -> int:
    """Measure the pages of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE", help="an HTML file")
    parser.add_argument(
        "--widths", default=",".join(map(str, WIDTHS)), help="pixels, comma-separated"
    )
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="keep a picture of each page and width"
    )
    args = parser.parse_args(words)
    browser = chromium()
    if browser is None:
        print("no Chromium was found; set $CHROMIUM, or install one", file=sys.stderr)
        return 2
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for page in args.pages:
        for width in map(int, args.widths.split(",")):
            named = f"{'-'.join(page.resolve().parts[-3:-1])}-{page.stem}-{width}.png"
            kept = None if args.pictures is None else args.pictures / named
            found = measure(browser, page, width, kept)
            print(f"{page} at {width} pixels: {len(found) or 'nothing'} wrong", *found, sep="\n  ")
            wrong += len(found)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
