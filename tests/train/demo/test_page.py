"""The page in a real browser: Chromium, by mouse, touch and keyboard."""

from __future__ import annotations

import base64
import io
import itertools
import shutil
import time

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the page is tried with Playwright: pip install playwright"
)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the page is tried in Chromium: apt-get install chromium")

DRAW, WALK, WRITE, TRANSLATE = (f"section:nth-of-type({number})" for number in range(1, 5))
SEVEN = ((0.3, 0.2), (0.7, 0.2), (0.6, 0.4), (0.5, 0.6), (0.42, 0.85))


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tool:
        # Chromium's own sandbox needs rights that a container has not, and root has none; the page is ours.
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the page, and in the end finds that nothing was said on its console."""
    contexts, told = [], []

    def open_page(**options):
        context = browser.new_context(viewport={"width": 1200, "height": 1000}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: request.url.startswith((server.url, "data:")) or told.append(request.url))
        page.goto(server.url)
        page.wait_for_selector("main:not([aria-busy])")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [each for each in told if "Failed to load resource" not in each] == []


@pytest.fixture
def page(open_page):
    return open_page()


def pixels(page, selector):
    """Of a canvas, `[height, width, 4]`."""
    url = page.eval_on_selector(selector, "canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA")).astype(int)


def until(page, selector, condition):
    """Waits for what a script says of the text of an element. The page itself may not evaluate texts as scripts."""
    for _ in range(400):
        if page.eval_on_selector(selector, f"e => ((text) => {condition})(e.textContent)"):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{selector} has the text {page.text_content(selector)!r}")


def corner(page, selector):
    """Where a point of an element is on the page, as it is laid out at the moment."""

    def place(x, y):
        box = page.query_selector(selector).bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    return place


@pytest.mark.slow
def test_a_digit_is_drawn_with_the_mouse_and_cleared(page):
    at = corner(page, f"{DRAW} .pad")
    page.mouse.move(*at(*SEVEN[0]))
    page.mouse.down()
    for point in SEVEN[1:]:
        page.mouse.move(*at(*point), steps=4)
        page.wait_for_selector(f"{DRAW} li.best")  # before the pen is lifted
    page.mouse.up()
    shares = page.locator(f"{DRAW} li .share")
    until(page, f"{DRAW} li:last-child .share", "text")
    found = [int(text.split()[0]) for text in shares.all_text_contents()]
    assert 97 <= sum(found) <= 103, "they are rounded"
    assert page.locator(f"{DRAW} li.best span").first.text_content() == str(np.argmax(found))
    assert pixels(page, f"{DRAW} .exact").shape == (8, 8, 4)
    assert pixels(page, f"{DRAW} .exact")[..., 0].max() > 150
    page.click(f"{DRAW} .clear")
    assert page.locator(f"{DRAW} li.best").count() == 0
    assert not pixels(page, f"{DRAW} .pad").any()
    assert pixels(page, f"{DRAW} .exact")[..., 0].max() == 0


@pytest.mark.slow
def test_a_digit_is_drawn_by_keyboard(page):
    page.focus(f"{DRAW} .pad")
    press = page.keyboard.press
    press("ArrowUp")
    assert page.locator(f"{DRAW} .pen").is_visible()
    assert not pixels(page, f"{DRAW} .pad").any(), "the pen is up"
    press(" ")
    for _ in range(6):
        press("ArrowDown")
    press(" ")
    drawn = pixels(page, f"{DRAW} .pad")[..., 3] > 128
    press("ArrowRight")
    assert (pixels(page, f"{DRAW} .pad")[..., 3] > 128).sum() == drawn.sum(), "it is up again"
    rows, columns = (np.flatnonzero(drawn.any(axis=axis)) for axis in (1, 0))
    assert len(rows) == pytest.approx(420 * (6 * 0.04 + 1 / 14), abs=4)
    assert len(columns) == pytest.approx(30, abs=3)
    page.wait_for_selector(f"{DRAW} li.best")
    press("Delete")
    assert not pixels(page, f"{DRAW} .pad").any()
    assert page.evaluate("scrollY") == 0, "arrows and space do not scroll"


@pytest.mark.slow
def test_a_digit_is_drawn_with_a_finger_on_a_phone(open_page):
    page = open_page(has_touch=True, is_mobile=True)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing sticks out"
    at = corner(page, f"{DRAW} .pad")
    touch = page.context.new_cdp_session(page)
    for kind, point in (("touchStart", SEVEN[0]), *(("touchMove", point) for point in SEVEN[1:]), ("touchEnd", None)):
        x, y = at(*point) if point else (0, 0)
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}] if point else []})
    page.wait_for_selector(f"{DRAW} li.best")
    drawn = pixels(page, f"{DRAW} .pad")[..., 3] > 128
    assert drawn[int(0.2 * 420), int(0.5 * 420)], "the bar of the seven, between two points"
    assert page.evaluate("scrollY") == 0


@pytest.mark.slow
def test_the_decoded_picture_follows_the_pointer(page):
    at = corner(page, f"{WALK} .pad")
    decoded = f"{WALK} .decoded"
    pictures = [pixels(page, decoded)]
    for point, told in (((0.05, 0.95), (-2.7, -2.7)), ((0.75, 0.25), (1.5, 1.5))):
        page.mouse.move(*at(*point))
        shown = " && ".join(f"Math.abs(text.split(',')[{axis}] - ({wanted})) < .03" for axis, wanted in enumerate(told))
        until(page, f"{WALK} .where", shown)
        for _ in range(400):
            if np.abs(pixels(page, decoded) - pictures[-1]).max() > 0:
                break
            page.wait_for_timeout(50)
        pictures.append(pixels(page, decoded))
    assert all(np.abs(after - before).max() > 0 for before, after in itertools.pairwise(pictures))
    page.focus(f"{WALK} .pad")
    page.keyboard.press("ArrowRight")
    assert float(page.text_content(f"{WALK} .where").split(",")[0]) == pytest.approx(1.62, abs=0.03)
    assert page.text_content(f"{WALK} [role=status]") == page.text_content(f"{WALK} .where")
    assert "The latent space has 3 dimensions" in page.text_content(f"{WALK} .about")
    before = pixels(page, f"{WALK} .map")
    assert len(np.unique(before)) > 20, "the map is there"
    with page.expect_response("**/panels/1"):
        page.click(f"{WALK} .other")
    page.wait_for_timeout(200)
    assert np.abs(pixels(page, f"{WALK} .map") - before).max() > 0
    with page.expect_response("**/panels/1"):
        page.click(f"{WALK} .middle")
    page.wait_for_timeout(200)
    np.testing.assert_array_equal(pixels(page, f"{WALK} .map"), before)
    assert page.text_content(f"{WALK} .where") == "0.00, 0.00"


@pytest.mark.slow
def test_a_text_is_written_and_stopped(page, server, monkeypatch):
    page.fill(f"{WRITE} .prompt", "it was")
    page.select_option(f"{WRITE} .length", "200")
    page.click(f"{WRITE} .start")
    until(page, f"{WRITE} .made", "text.length === 200")
    assert page.text_content(f"{WRITE} .given") == "it was"
    page.wait_for_selector(f"{WRITE} .start:not(:disabled)")
    page.fill(f"{WRITE} .prompt", "Ω")
    page.click(f"{WRITE} .start")
    until(page, f"{WRITE} .fault", "text.includes('the model knows no')")
    assert page.text_content(f"{WRITE} .made") == ""

    def endless(body):
        return ({"text": "so "} for _ in iter(lambda: time.sleep(0.02), 1))

    monkeypatch.setattr(server, "panels", [each._replace(answer=endless) for each in server.panels])
    page.click(f"{WRITE} .start")
    until(page, f"{WRITE} .made", "text.length > 9")
    page.click(f"{WRITE} .stop")
    page.wait_for_selector(f"{WRITE} .start:not(:disabled)")
    assert page.text_content(f"{WRITE} .fault") == ""
    assert page.text_content(f"{WRITE} .made").startswith("so so so")


@pytest.mark.slow
def test_what_is_typed_is_translated(page, panels):
    page.fill(f"{TRANSLATE} .source", "3 March 1998")
    wanted = panels[3].answer({"text": "3 March 1998"})
    sure = f"probability {100 * wanted['probability']:.1f} %"
    until(page, f"{TRANSLATE} .sure", f"text === '{sure}'")
    assert page.text_content(f"{TRANSLATE} output") == wanted["text"]
    page.click(f"{TRANSLATE} .examples button >> nth=2")
    assert page.input_value(f"{TRANSLATE} .source") == panels[3].facts["examples"][2]
    page.fill(f"{TRANSLATE} .source", "~")
    until(page, f"{TRANSLATE} .fault", "text.includes('knows no')")
    page.fill(f"{TRANSLATE} .source", "")
    assert page.text_content(f"{TRANSLATE} output") == ""
    assert page.text_content(f"{TRANSLATE} .fault") == ""


@pytest.mark.slow
def test_everything_has_a_name_and_is_reached_by_tab(page, panels):
    """What a screen reader would call each control, and that the focus is seen on it."""
    names = []
    for _ in range(40):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
                const e = document.activeElement;
                if (e === document.body) return null;
                const label = e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent;
                return [label.trim(), parseFloat(getComputedStyle(e).outlineWidth) > 0];
            }"""
        )
        if found is None:
            break
        names.append(found[0].split("\n")[0])
        assert found[0], page.evaluate("document.activeElement.outerHTML")
        assert found[1], f"{found[0]} shows its focus"
    assert {"Drawing area", "Clear", "Plane of the latent space", "Another plane", "Write", "The text"} <= set(names)
    assert names[0] == "Drawing area"
    name = """all => all.map(e => e.getAttribute('aria-labelledby').split(' ').map(
        id => document.getElementById(id).textContent).join(' '))"""
    headings = page.eval_on_selector_all("section", name)
    assert [each.partition(" run ")[0] for each in headings] == [panel.facts["title"] for panel in panels]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_are_legible_in_both_schemes(open_page, scheme):
    """Contrast of at least 4.5 : 1, WCAG 2.2's level AA."""
    page = open_page(color_scheme=scheme)
    pairs = page.evaluate(
        """() => [["--ink", "--card"], ["--soft", "--card"], ["--soft", "--ground"], ["--soft", "--well"],
            ["--wrong", "--card"],
            ["--ink", "--well"], ["--on-accent", "--accent"], ["--accent", "--card"],
        ].map(pair => [pair.join(" on "), ...pair.map(n => {
            const e = document.createElement("i");
            e.style.color = `var(${n})`;
            document.body.append(e);
            return getComputedStyle(e).color.match(/\\d+/g).map(Number);
        })])"""
    )
    for name, *colours in pairs:
        parts = np.array(colours) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        dark, light = sorted(linear @ [0.2126, 0.7152, 0.0722])
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name
    assert (np.sum(pairs[0][2]) > 384) == (scheme == "light")


@pytest.mark.slow
def test_a_server_that_has_gone_is_told(open_page, server):
    page = open_page()
    page.route("**/panels/3", lambda route: route.abort())
    page.fill(f"{TRANSLATE} .source", "3 May 1998")
    until(page, f"{TRANSLATE} .fault", "text.includes('has it been stopped')")
