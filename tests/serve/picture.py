"""`python -m tests.serve.picture serve/page.png`: the picture of the page in the README, taken anew."""

from __future__ import annotations

import sys
from pathlib import Path

from serve.page.controls import EXAMPLES, title
from tests.serve.page.browser import finished, opened
from tests.serve.processes import started

EXAMPLE = "phone_gate_change"


def take(picture: Path, example: str = EXAMPLE) -> str:
    """Starts a server, clicks an example, and photographs the page with its German text, which is returned."""
    clip = EXAMPLES / f"{example}.flac"
    assert clip.is_file(), f"no example called {example}"
    with started() as (_, url), opened(url, height=700) as page:
        page.get_by_role("button", name=title(clip)).first.click()
        text = finished(page, "de")
        page.mouse.move(0, 0)  # nothing looks hovered
        page.wait_for_timeout(500)  # the waveform is drawn after the text
        page.screenshot(path=picture, full_page=True)
    return text


if __name__ == "__main__":
    print(take(Path(sys.argv[1])))
