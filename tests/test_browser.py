"""The built book in a browser: each page at two widths, light and dark. `make book` builds it; any preset will do."""

import asyncio
import urllib.parse
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import chromium
import pytest
from playwright.async_api import Browser, Page, async_playwright

BOOK = Path(__file__).resolve().parent.parent / "book" / "_build" / "html"
AXE = files("axe_playwright_python") / "axe.min.js"
LOOK = Path(__file__).with_name("look.js").read_text() + AXE.read_text()
LISTED = BOOK / "_modules" / "msmeta" / "bilevel.html"
"""The listing of a module's code that stands for all of them where looking takes long: they share a template."""
TABS = 3
"""Pages looked at at a time."""
KINDS = ("errors", "requests", "formulas", "pictures", "width", "boxes", "accessibility", "sliders")
PATIENCE = 600_000
"""Milliseconds: for a browser that hangs, not for a machine that is busy."""
NARROW, WIDE = ({"width": width, "height": 800} for width in (360, 1280))
COLOURS = ["color-contrast", "link-in-text-block"]
"""Rules whose answer depends on the theme."""

if chromium.PATH is None:
    pytest.skip(chromium.MISSING, allow_module_level=True)


@dataclass
class Look:
    """What there was to see of one page. faults: by kind, each with the page's name and size."""

    page: Path
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    links: list[str] = field(default_factory=list)
    places: set[str] = field(default_factory=set)
    sliders: int = 0
    twins: int = 0
    whole: bool = True
    """Until parts of the page are taken away, which its own scripts may miss."""

    def note(self, kind: str, found: list[str], where: str = "") -> None:
        name = self.page.relative_to(BOOK) if self.page.is_relative_to(BOOK) else self.page.name
        self.faults[kind] += [f"{name} {where}: {fault}" for fault in found]


async def look_at(look: Look, tab: Page) -> None:
    """Loads a page as a phone would, widens it to a desk's, and darkens both."""
    await tab.emulate_media(color_scheme="light")
    await tab.set_viewport_size(NARROW)
    await tab.goto(look.page.as_uri())
    await tab.evaluate(f"() => {{ {LOOK}; window.look = look }}")
    await tab.evaluate("look.ready()")
    look.links, look.places = await tab.evaluate("look.links()"), set(await tab.evaluate("look.places()"))
    look.note("formulas", await tab.evaluate("look.equations()"))
    look.note("pictures", await tab.evaluate("look.pictures()"))
    await tab.evaluate("look.empty()")
    for size in (NARROW, WIDE):
        await resize(tab, size)
        look.note("width", await tab.evaluate("look.wide()"), f"{size['width']} px")
        await violations(tab, look, {"rules": {rule: {"enabled": False} for rule in COLOURS}})
        if size is WIDE or look.page == BOOK / "index.html":
            look.note("boxes", await tab.evaluate("look.boxes()"), f"{size['width']} px")
    look.sliders = await tab.evaluate("look.sliders()")
    await move_sliders(tab, look)
    await switch_plots(tab, look)
    await tab.emulate_media(color_scheme="dark")
    for size in (WIDE, NARROW):
        await resize(tab, size)
        look.note("width", await tab.evaluate("look.wide()"), f"{size['width']} px dark")
    look.whole = False
    await tab.evaluate("look.thin()")
    for size, theme in ((WIDE, "light"), (WIDE, "dark"), (NARROW, "dark"), (NARROW, "light")):
        await tab.emulate_media(color_scheme=theme)
        await tab.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
        await resize(tab, size)
        await violations(tab, look, {"runOnly": COLOURS}, theme)


def local(address: str) -> bool:
    return address.startswith(("file:", "data:", "blob:", "about:"))


async def resize(tab: Page, size: dict[str, int]) -> None:
    await tab.set_viewport_size(size)
    await tab.evaluate("look.settled()")


async def violations(tab: Page, look: Look, options: dict, theme: str = "") -> None:
    if "_modules" in look.page.parts and look.page != LISTED:
        return
    found = await tab.evaluate("options => look.violations(options)", {**options, "preload": False})
    look.note("accessibility", found, f"{tab.viewport_size['width']} px {theme}".strip())


async def move_sliders(tab: Page, look: Look) -> None:
    """Each slider by a key; what is drawn or written beside it has to change."""
    for slider in await tab.locator("main input[type=range]:visible:enabled").all():
        before = await tab.evaluate("look.drawn()")
        at_end = await slider.evaluate("slider => slider.value === slider.max")
        await slider.press("ArrowLeft" if at_end else "ArrowRight")
        await tab.evaluate("look.settled()")
        if await tab.evaluate("look.drawn()") == before:
            look.note("sliders", [f"{await slider.get_attribute('id')} changes nothing"])


async def switch_plots(tab: Page, look: Look) -> None:
    """Each figure that has an interactive twin shows it, and the page stays as wide as it was."""
    for switch in await tab.locator("main .plot-switch:visible").all():
        await switch.click()
        twin = switch.locator("xpath=ancestor::*[contains(@class, 'plot')][1]").locator(".plot-twin")
        await twin.locator("svg").first.wait_for()
        await tab.evaluate("look.settled()")
        look.twins += 1
        look.note("width", await tab.evaluate("look.wide()"), "interactive")
        await switch.click()


async def in_one_tab(pages: Iterator[Path], browser: Browser) -> list[Look]:
    """One page after another: a tab of its own would cost each as much again."""
    tab, looks = await browser.new_page(), []
    tab.set_default_timeout(PATIENCE)
    tab.on("console", lambda message: looks[-1].note("errors", [message.text] if message.type == "error" else []))
    tab.on("pageerror", lambda error: looks[-1].note("errors", [str(error)] if looks[-1].whole else []))
    tab.on("requestfailed", lambda request: looks[-1].note("errors", [f"not loaded: {request.url}"]))
    tab.on("request", lambda request: looks[-1].note("requests", [] if local(request.url) else [request.url]))
    for page in pages:
        looks.append(Look(page))
        await asyncio.wait_for(look_at(looks[-1], tab), PATIENCE / 1000)  # scripts in a page have no limit of their own
        await tab.goto("about:blank")  # what its scripts still say is of this page
    return looks


async def look_at_all(pages: list[Path]) -> list[Look]:
    left = iter(pages)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(**chromium.OPTIONS)
        looks = await asyncio.gather(*(in_one_tab(left, browser) for _ in range(TABS)))
        await browser.close()
    return [look for own in looks for look in own]


@asynccontextmanager
async def opened(page: str, size: dict[str, int]) -> AsyncIterator[Page]:
    """A page of the book in a browser of its own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(**chromium.OPTIONS)
        tab = await browser.new_page(viewport=size)
        tab.set_default_timeout(PATIENCE)
        await tab.goto((BOOK / page).as_uri())
        yield tab
        await browser.close()


@pytest.fixture(scope="module")
def looks() -> list[Look]:
    pages = sorted(path for path in BOOK.rglob("*.html") if "_static" not in path.parts)
    if not pages:
        pytest.skip("there is no built book here: make book")
    return asyncio.run(look_at_all(pages))


@pytest.mark.parametrize("kind", KINDS)
def test_no_page_has_faults(kind, looks):
    """errors: of scripts. requests: to other hosts. formulas: not typeset. pictures: without words for what they show.
    width: wider than the window. boxes: that scroll sideways on a desk, or on the front page on a phone. accessibility:
    rules of axe-core. sliders: that change nothing."""
    assert [fault for look in looks for fault in look.faults[kind]] == []


def test_the_sliders_were_there_to_move(looks):
    assert sum(look.sliders for look in looks) >= 6


def test_the_interactive_figures_were_there_to_show(looks):
    assert sum(look.twins for look in looks) >= 5


def test_a_page_is_soon_there(looks):
    """Scripts and style sheets, which all pages share, beside: pictures are in the page."""
    assert {look.page.name: look.page.stat().st_size for look in looks if look.page.stat().st_size > 2_000_000} == {}


def test_the_front_page_tells_its_verdicts_without_scrolling(looks):
    """On a desk all of them and the chart; on a phone how many held."""

    async def lowest(size: dict[str, int], place: str) -> float:
        async with opened("index.html", size) as tab:
            box = await tab.locator(place).bounding_box()
        return box["y"] + box["height"]

    assert asyncio.run(lowest(WIDE, ".front")) <= WIDE["height"]
    assert asyncio.run(lowest(NARROW, "p:has-text('Answer.')")) <= NARROW["height"]


def test_a_symbol_says_what_it_means_on_hover_and_on_focus_until_escape(looks):
    async def read(tab: Page) -> str | None:
        """The card, which is within the window and described by the symbol; None where there is none."""
        card = tab.locator("#symbol-card")
        if not await card.is_visible():
            return None
        box = await card.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= NARROW["width"]
        assert await tab.locator("[aria-describedby=symbol-card]").get_attribute("data-meaning")
        return await card.inner_text()

    async def cards() -> list[str | None]:
        """After each of what is done with the first symbol; and its meaning."""
        async with opened("method.html", NARROW) as tab:
            symbol = tab.locator("article .symbol").first
            steps = (symbol.focus, lambda: tab.keyboard.press("Escape"), symbol.hover, lambda: tab.mouse.move(0, 0))
            found = [await read(tab)]
            for step in steps:
                await step()
                found.append(await read(tab))
            return [*found, await symbol.get_attribute("data-meaning")]

    *shown, meaning = asyncio.run(cards())
    assert meaning and shown == [None, meaning, None, meaning, None]


def test_every_link_leads_to_a_file_and_a_place_that_are_there(looks):
    assert dead_links(looks) == []


def dead_links(looks: list[Look]) -> list[str]:
    places, dead = {look.page: look.places for look in looks}, []
    for look in looks:
        for link in look.links:
            address = urllib.parse.urlsplit(link)
            if address.scheme != "file":
                continue
            target, place = Path(urllib.parse.unquote(address.path)), urllib.parse.unquote(address.fragment)
            there = target.is_file() and (not place or target not in places or place in places[target])
            if not there:
                dead.append(f"{look.page.name}: {link}")
    return dead


def test_search_from_any_page_finds_the_proposition(looks):
    async def search() -> list[str]:
        errors = []
        async with opened("method.html", WIDE) as tab:
            tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            tab.on("pageerror", lambda error: errors.append(str(error)))
            await tab.keyboard.press("Control+K")
            await tab.keyboard.type("Proposition 1")
            await tab.keyboard.press("Enter")
            await tab.wait_for_selector("#search-results > p:has-text('found')")
            found = await tab.locator("#search-results li > a").all_inner_texts()
        assert errors == []
        return found

    assert "Proposition 1 and Lemma 1" in asyncio.run(search())


FAULTY = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Faulty</title><script>
const dark = matchMedia("(prefers-color-scheme: dark)");
(dark.onchange = () => { document.documentElement.dataset.theme = dark.matches ? "dark" : "light" })();
throw new Error("a script's")</script></head>
<body><main style="background: white"><h1 id="top">Faulty</h1><p style="color: #999">Pale, and \\(x^2\\).</p>
<a href="#top">right</a><a href="#nowhere">wrong</a><a href="gone.html">gone</a><img src="http://127.0.0.1:9/x.png">
<span class="math">x</span><input type="range" aria-label="idle"><div style="width: 2000px">wide</div>
<div class="pst-scrollable-table-container" style="width: 3em; overflow-x: auto" tabindex="0"><table><tr><th>headline
<td>number</table></div></main></body>"""


def test_each_kind_of_fault_is_found(tmp_path):
    page = tmp_path / "faulty.html"
    page.write_text(FAULTY)
    (look,) = looks = asyncio.run(look_at_all([page]))
    assert set(look.faults) == set(KINDS) and all(look.faults.values())
    assert set(look.faults["requests"]) == {"faulty.html : http://127.0.0.1:9/x.png"}
    assert len(look.faults["formulas"]) == 2 and len(look.faults["pictures"]) == 1
    wide = {f"faulty.html {width} px{theme}" for width in (360, 1280) for theme in ("", " dark")}
    assert {fault.split(": ")[0] for fault in look.faults["width"]} == wide
    pale = {fault.partition(": ")[0] for fault in look.faults["accessibility"] if "color-contrast" in fault}
    assert pale == {f"faulty.html {width} px {theme}" for width in (360, 1280) for theme in ("light", "dark")}
    assert [link.rpartition("/")[2] for link in dead_links(looks)] == ["faulty.html#nowhere", "gone.html"]
