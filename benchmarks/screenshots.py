"""Pictures of every page of a running demo, in both themes at three widths: `python -m benchmarks.screenshots --demo var/demo`.

The pages are those of the menu, so a new one is in the next set. With `--only overview,plan` just those; with `--language de`
the pages speak German; with `--webp` each picture is a tenth of the size: `docs/images` has a few of those.
"""

import argparse
import base64
import json
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Page, sync_playwright

WIDTHS = (360, 768, 1440)
SCHEMES = ("light", "dark")
TO_WEBP = """async source => {
  const image = new Image(); image.src = source; await image.decode();
  const canvas = document.createElement("canvas"); canvas.width = image.width; canvas.height = image.height;
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL("image/webp", 0.9);
}"""
OUTSIDE = {"login": "/login", "signup": "/signup", "problem": "/problems/payment-required"}


def sign_in(page: Page, tenant: dict[str, str]) -> None:
    page.goto("/login")
    page.locator("input[type=email], input[name=username], input[name=login]").first.fill(tenant["email"])
    page.locator("input[type=password]").fill(tenant["password"])
    page.locator("main form[method=post]").first.evaluate("form => form.requestSubmit()")
    page.wait_for_url("**/t/**")


def menu(page: Page) -> dict[str, str]:
    """Name and path of each page of the menu."""
    paths = page.locator("nav.side a").evaluate_all("links => links.map(link => new URL(link.href).pathname)")
    return {path.rsplit("/", 1)[1] or "overview": path for path in paths}


def smaller(page: Page, picture: Path) -> None:
    """The PNG is a WebP instead, made by the browser itself."""
    source = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    made = page.evaluate(TO_WEBP, source)
    picture.with_suffix(".webp").write_bytes(base64.b64decode(made.split(",", 1)[1]))
    picture.unlink()


def shoot(page: Page, name: str, path: str, into: Path, widths: tuple[int, ...]) -> None:
    page.goto(path)
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.screenshot(path=into / f"{name}-{width}-{scheme}.png", full_page=True)
    over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    print(f"{name:24} {page.title()[:60]}" + (f"  SCROLLS SIDEWAYS by {over}" if over > 0 else ""))


def context_of(browser, url: str, language: str) -> BrowserContext:  # type: ignore[no-untyped-def]
    context = browser.new_context(base_url=url, locale=language, device_scale_factor=1)
    host = urlsplit(url).hostname
    context.on(
        "request",
        lambda request: urlsplit(request.url).hostname in {host, None} or print("LEAVES THE HOST", request.url),
    )
    context.on("console", lambda line: print("CONSOLE", line.text) if line.type in {"error", "warning"} else None)
    return context


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("var/demo"), help="the demo's state directory")
    parser.add_argument("--into", type=Path, default=Path("var/screenshots"))
    parser.add_argument("--tenant", default="acme")
    parser.add_argument("--only", default="")
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)))
    parser.add_argument("--language", default="en")
    parser.add_argument("--webp", action="store_true")
    options = parser.parse_args()
    demo = json.loads((options.demo / "demo.json").read_text())
    tenant = next(one for one in demo["tenants"] if one["slug"] == options.tenant)
    options.into.mkdir(parents=True, exist_ok=True)
    widths = tuple(int(width) for width in options.widths.split(","))
    wanted = set(filter(None, options.only.split(",")))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = context_of(browser, demo["url"], options.language).new_page()
        outside = {name: path for name, path in OUTSIDE.items() if not wanted or name in wanted}
        for name, path in outside.items():
            shoot(page, name, path, options.into, widths)
        page.set_viewport_size({"width": 1440, "height": 900})
        sign_in(page, tenant)
        page.goto(f"/t/{tenant['slug']}/")
        pages = menu(page) | {name: path for name, path in {"states": "/sandbox/states"}.items() if name in wanted}
        for name, path in pages.items():
            if not wanted or name in wanted:
                shoot(page, name, path, options.into, widths)
        if options.webp:
            blank = browser.new_page()
            for picture in sorted(options.into.glob("*.png")):
                smaller(blank, picture)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
