"""The report in a real browser: opens from a file, asks the network for nothing, sorts, links, filters, and fits light, dark and narrow.

Needs Chromium and its driver (Debian: `apt-get install chromium chromium-driver`); skipped where they are not installed.
"""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from analysis import head_functions, report, robust_heads, stability, universal_heads
from analysis.heads.options import RobustRule
from analysis.page.csv import THIRDS
from tests.support.synthetic_results import write_results

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium or chromedriver is not installed (chromium, chromium-driver)")
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=1300,900"),
)
HEAD, SAMPLE = "#blip-small/cross_attention/L1.H2", "#sample/llava-small/shapes/s003"
LOCAL = ("file:", "data:", "about:", "blob:", "chrome:")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    folder = write_results(tmp_path_factory.mktemp("browser") / "a folder")
    universal_heads.write(folder, universal_heads.UniversalHeads(permutations=10))
    head_functions.write(folder)
    robust_heads.write(folder, RobustRule(permutations=10))
    robust_heads.write_power(folder, robust_heads.RobustHeads(runs=1))
    stability.write(folder, stability.Stability(repeats=5))
    shares = {f"{third}{end}": [0.2, 0.5] for third in THIRDS for end in ("", "_low", "_high")}
    place = {"model": "blip-small", "dataset": "shapes", "component": "mlp", "heads": 0, "direction": "denoising", "window": 1}
    rows = shares | place | {"definition": "ours", "row": "share", "corruption": ["sip", "str"], "samples": 24}
    pd.DataFrame(rows).to_csv(folder / "compare_corruptions.csv", index=False)
    return report.write(folder).paths[0].as_uri()


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(started, page):
    """The page, freshly opened in light colours and a wide window; after the test, that nothing was logged or fetched."""
    resize(started, 1300)
    started.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    started.get("about:blank")
    started.get_log("browser")
    started.get_log("performance")
    started.get(page)
    started.execute_script("localStorage.clear()")
    yield started
    assert [entry["message"] for entry in started.get_log("browser")] == []
    messages = [json.loads(entry["message"])["message"] for entry in started.get_log("performance")]
    asked = [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    assert page in {url.split("#")[0] for url in asked}
    assert [url for url in asked if not url.startswith(LOCAL)] == []


def resize(driver, width: int, height: int = 900) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def until(condition: Callable[[], object], seconds: float = 60) -> object:
    """The value of a condition once it is true; an element that is not there yet is waited for."""
    end = time.monotonic() + seconds
    while True:
        with suppress(NoSuchElementException, StaleElementReferenceException):
            if value := condition():
                return value
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def go(browser, address: str) -> None:
    """Follow an address, until what it names is shown."""
    browser.execute_script("location.hash = arguments[0]", address)
    shown = """const page = pageAt(location.hash);
        return location.hash === arguments[0] && one.hidden === !page && document.title === (page ? `${page.name} · ${title}` : title)"""
    until(lambda: browser.execute_script(shown, address))


def find(browser, selector: str):
    return browser.find_element(By.CSS_SELECTOR, selector)


def column(browser, table: str, number: int) -> list[str]:
    """The texts of a column of the first table that has this text in its caption."""
    script = """const table = [...document.querySelectorAll("table")].find((one) => one.caption.textContent.includes(arguments[0]));
        return [...table.tBodies[0].rows].map((row) => row.cells[arguments[1]].textContent.trim())"""
    return browser.execute_script(script, table, number)


def sort_button(browser, table: str, number: int):
    script = """const table = [...document.querySelectorAll("table")].find((one) => one.caption.textContent.includes(arguments[0]));
        return table.tHead.rows[0].cells[arguments[1]].querySelector("button")"""
    return browser.execute_script(script, table, number)


def drawn(browser, place: str) -> bool:
    """Whether the first plot below an element has been drawn."""
    script = """const plot = document.querySelector(arguments[0] + " .plot");
        return Boolean(plot && plot.data && plot.layout && plot.querySelector(".main-svg") && plot.dataset.drawn)"""
    return browser.execute_script(script, place)


def test_tables_sort_by_click_and_by_key(browser):
    names = column(browser, "Universal heads of blip-small", 0)
    assert sorted(names) == ["L0.H5", "L1.H2", "L3.H0"]
    button = sort_button(browser, "Universal heads of blip-small", 0)
    button.click()
    assert column(browser, "Universal heads of blip-small", 0) == ["L0.H5", "L1.H2", "L3.H0"]
    button.send_keys(Keys.ENTER)
    assert column(browser, "Universal heads of blip-small", 0) == ["L3.H0", "L1.H2", "L0.H5"]
    assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
    effects = sort_button(browser, "Universal heads of blip-small", 2)
    for largest_first in (True, False):
        effects.click()
        shown = [float(text.replace("−", "-")) for text in column(browser, "Universal heads of blip-small", 2)]
        assert shown == sorted(shown, reverse=largest_first)


def test_a_link_leads_to_the_head_and_back(browser):
    find(browser, "section a[href='#blip-small/cross_attention/L1.H2']").click()
    until(lambda: find(browser, "#one h1").text.startswith("L1.H2"))
    assert not find(browser, "#overview").is_displayed()
    text = find(browser, "#one").text
    for part in ("vision head by NOTICE’s rule", "holds up: vision", "Effects by task", "Attention on the image", "Strongest and weakest"):
        assert part in text, part
    until(lambda: drawn(browser, "#one"))
    assert len(column(browser, "Effects of L1.H2 by task", 0)) == 4
    pictures = browser.execute_script("return [...document.querySelectorAll('#one .over img')].map((one) => one.naturalWidth)")
    assert len(pictures) >= 5 * 8  # the gallery: the image, and the image below two maps
    assert all(pictures)
    find(browser, "#one .crumbs button:last-child").click()
    until(lambda: find(browser, "#one h1").text.startswith("L1.H3"))
    browser.back()
    until(lambda: find(browser, "#one h1").text.startswith("L1.H2"))
    browser.back()
    until(lambda: find(browser, "#overview").is_displayed())
    assert not find(browser, "#one").is_displayed()


def test_a_cell_of_a_head_map_shows_its_value_and_leads_to_its_head(browser):
    go(browser, "#heads")
    until(lambda: drawn(browser, "#head-maps"))
    layer = find(browser, "#head-maps .plot .nsewdrag")
    cell = {axis: layer.size[axis] / count for axis, count in {"width": 6, "height": 4}.items()}
    place = (
        2.5 * cell["width"] - layer.size["width"] / 2,
        2.5 * cell["height"] - layer.size["height"] / 2,
    )  # L1.H2: the third row from the top
    pointer = webdriver.ActionChains(browser, duration=50)
    pointer.move_to_element_with_offset(layer, int(place[0]), int(place[1])).perform()
    until(lambda: "L1.H2" in find(browser, "#head-maps .plot .hoverlayer").text)
    pointer.click().perform()
    until(lambda: browser.execute_script("return location.hash") == HEAD)
    until(lambda: find(browser, "#one h1").text.startswith("L1.H2"))


def test_maps_follow_their_choices(browser):
    go(browser, "#heads")
    until(lambda: drawn(browser, "#head-maps"))
    shown = "return document.querySelector('#head-maps .plot').data[0].z[1][2]"
    mean = browser.execute_script(shown)
    Select(find(browser, "#head-maps select")).select_by_value("shapes/shape")
    assert until(lambda: (value := browser.execute_script(shown)) != mean and value) == pytest.approx(1, abs=0.1)
    go(browser, "#modules")
    until(lambda: drawn(browser, "#module-maps"))
    titles = "return [...document.querySelectorAll('#module-maps section:first-child .plot')].map((one) => one.layout?.title?.text)"
    Select(browser.find_elements(By.CSS_SELECTOR, "#module-maps select")[1]).select_by_value("correct first")
    until(lambda: browser.execute_script(titles) == ["sip (image), 12 samples", "str (text), 12 samples"])
    go(browser, "#corruptions")
    until(lambda: drawn(browser, "#thirds"))
    assert browser.execute_script("return document.querySelector('#thirds .plot').data.map((one) => one.x)") == [[0.2] * 3, [0.5] * 3]
    find(browser, "#head-maps details summary").send_keys(Keys.ENTER)
    until(lambda: browser.find_elements(By.CSS_SELECTOR, "#head-maps details table"))
    assert len(column(browser, "Mean over tasks of each head", 0)) == 24


def test_curves_are_drawn(browser):
    for place, curves in (("#stability", "#stability-curves"), ("#power", "#power-curves")):
        go(browser, place)
        until(lambda curves=curves: drawn(browser, curves))
        lines = browser.execute_script("return document.querySelector(arguments[0] + ' .plot').data.map((one) => one.x.length)", curves)
        assert len(lines) >= 4
        assert min(lines) >= 2


@pytest.mark.parametrize(("width", "address"), [(1300, "#functions"), (390, "#modules"), (1300, "#claims")])
def test_an_address_shows_its_section_also_after_the_plots_are_drawn(browser, page, width, address):
    resize(browser, width)
    browser.get("about:blank")
    browser.get(page + address)
    near = "return [...document.querySelectorAll('.plot')].map((one) => [one, one.getBoundingClientRect()])"
    near += ".filter(([_, { top, bottom }]) => bottom > -250 && top < innerHeight + 250)"
    until(lambda: browser.execute_script(near + ".every(([one]) => one.dataset.drawn)"))
    top = "return document.querySelector(arguments[0]).getBoundingClientRect().top"
    bar = browser.execute_script("return document.querySelector('.bar').getBoundingClientRect().bottom")
    assert bar - 2 < browser.execute_script(top, address) < bar + 40


def test_samples_are_searched_filtered_and_opened(browser):
    go(browser, "#samples")
    cards = "return [...document.querySelectorAll('#browser a.sample')].map((one) => one.getAttribute('href').split('/').pop())"
    assert len(browser.execute_script(cards)) == 24
    Select(browser.find_elements(By.CSS_SELECTOR, "#browser select")[1]).select_by_value("shape")
    assert browser.execute_script(cards) == [f"s{i:03d}" for i in range(1, 24, 2)]
    find(browser, "#browser input[type=search]").send_keys("S003")
    assert browser.execute_script(cards) == ["s003"]
    assert "1 of the 24 samples" in find(browser, "#browser").text
    find(browser, "#browser a.sample").click()
    until(lambda: find(browser, "#one h1").text.startswith("s003"))
    assert column(browser, "Probabilities over the whole vocabulary", 2) == ["1.00", "0.0183", "1.00", "0.0183"]  # exp(0), exp(-4)
    until(lambda: drawn(browser, "#one"))
    find(browser, "#one .crumbs a").click()
    until(lambda: find(browser, "#overview").is_displayed())


def test_colours_follow_the_system_and_the_button(browser):
    background = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(background)
    go(browser, "#heads")
    until(lambda: drawn(browser, "#head-maps"))
    ink = "return document.querySelector('#head-maps .plot').layout.font.color"
    of_light = browser.execute_script(ink)
    button = find(browser, "#theme")
    button.send_keys(Keys.SPACE)
    dark = until(lambda: (value := browser.execute_script(background)) != light and value)
    assert until(lambda: browser.execute_script(ink) != of_light)
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert browser.execute_script(background) == light
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    until(lambda: browser.execute_script(background) == dark)
    assert find(browser, "#theme").get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("width", [390, 800, 1300])
def test_nothing_is_wider_than_the_window(browser, width):
    resize(browser, width)
    until(lambda: browser.execute_script("return innerWidth") == width)
    too_wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for address in (HEAD, SAMPLE):
        go(browser, address)
        until(lambda: drawn(browser, "#one"))
        assert browser.execute_script(too_wide) <= 0
    browser.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    go(browser, "#heads")
    until(lambda: drawn(browser, "#head-maps"))
    assert browser.execute_script(too_wide) <= 0


def test_text_and_labels_can_be_read(browser):
    """Contrast of at least 4.5 (WCAG AA) in both colours, and a name for each control."""
    contrast = """
        const part = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const light = (colour) => colour.match(/[\\d.]+/g).map(Number).map(part)
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = ["paper", "panel"].map((name) => light(theme.colour(name)));
        return ["ink", "soft", "accent", "vision", "text", "multimodal"].flatMap((name) => behind.map((b) => {
            const [low, high] = [light(theme.colour(name)), b].sort((x, y) => x - y); return (high + 0.05) / (low + 0.05); }))"""
    for _ in range(2):
        assert min(browser.execute_script(contrast)) >= 4.5
        find(browser, "#theme").click()
    unnamed = """
        const own = (one) => (one.tagName === "BUTTON" ? one.textContent : "") || one.ariaLabel || "";
        const name = (one) => one.labels?.[0]?.firstChild.textContent || own(one);
        return [...document.querySelectorAll("select, input, button")].filter((one) => !name(one).trim()).length"""
    for address in ("#top", HEAD, SAMPLE):
        go(browser, address)
        assert browser.execute_script(unnamed) == 0
        assert browser.execute_script("return [...document.querySelectorAll('table')].every((one) => one.caption && one.tHead)")
        assert browser.execute_script("return [...document.images].every((one) => one.hasAttribute('alt'))")


def test_an_address_of_nothing_says_so(browser):
    go(browser, "#blip-small/cross_attention/L9.H9")
    until(lambda: "Nothing here is called blip-small/cross_attention/L9.H9" in find(browser, "#one").text)


def test_a_report_without_effects_opens(started, tmp_path):
    write_results(tmp_path, models=["llava-small"], corruptions=["str"])
    shutil.rmtree(tmp_path / "llava-small" / "shapes" / "str")
    started.get(Path(report.write(tmp_path).paths[0]).as_uri())
    assert "No samples: no effects were measured." in find(started, "#browser").text
    assert [entry["message"] for entry in started.get_log("browser")] == []
