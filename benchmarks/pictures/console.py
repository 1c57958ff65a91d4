"""Pictures of the console's pages from a demo that runs now, in a real Chromium, for the docs.

Needs Debian's `chromium` (it installs it, as root).

    python -m benchmarks.pictures.console docs/img [--seconds 60] [--pages /fleet /requests]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.stack.console.chromium import Tab, chromium

WIDE, NARROW = (1280, 800), (400, 800)
PAGES = ("/models", "/requests", "/batches")
BURST = 0.55
"""Part of the demo's time after which its burst has filled the queue."""
LOOK = re.compile(r"Look at it on (http://\S+): sign in with (\S+)")


async def main(folder: Path, seconds: float, pages: Sequence[str]) -> None:
    """Runs the demo and takes the pictures."""
    async with _demo(seconds) as (url, key), chromium() as browser, browser.tab() as tab:
        await tab.size(*WIDE)
        await tab.open(f"{url}/sign-in")
        await tab.run("document.querySelector('input[type=password]').focus()")
        await tab.write(key)
        await tab.after_load(lambda: tab.press("Enter"))
        await asyncio.sleep(seconds * BURST)
        await _both(tab, folder, "fleet")
        for page in pages:
            await tab.open(url + page)
            await _both(tab, folder, page.strip("/").replace("/", "-"))
        await tab.open(f"{url}/requests?order=duration")
        await tab.after_load(lambda: tab.run("document.querySelector('tbody th a').click()"))
        await _both(tab, folder, "request")
        for complaint in tab.complaints:
            print(complaint, file=sys.stderr)


async def _both(tab: Tab, folder: Path, name: str) -> None:
    """A wide, light picture and a narrow, dark one of the page that is open."""
    for size, scheme, path in (
        (WIDE, "light", folder / f"console-{name}.png"),
        (NARROW, "dark", folder / f"console-{name}-narrow.png"),
    ):
        await tab.size(*size)
        await tab.scheme(scheme)
        await tab.picture(path, whole=name != "requests")
        print(path)
    await tab.size(*WIDE)
    await tab.scheme("light")


@contextlib.asynccontextmanager
async def _demo(seconds: float) -> AsyncIterator[tuple[str, str]]:
    """A demo, and where its console is and with which key."""
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "moegate", "demo", "--seconds", str(seconds)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert demo.stdout is not None
    try:
        while True:
            line = (await demo.stdout.readline()).decode()
            assert line, "the demo has ended"
            if found := LOOK.search(line):
                break
        reading = asyncio.create_task(demo.stdout.read())
        yield found[1], found[2]
        reading.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            demo.terminate()
        await demo.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pages", nargs="*", default=PAGES)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(given.folder, given.seconds, given.pages))
