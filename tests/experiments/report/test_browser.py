"""The page works in a browser."""

import shutil

import pytest

from tests.helpers.report_pages import make_page
from tests.helpers.written_workdirs import write_sweep


@pytest.mark.slow
def test_a_browser_shows_the_page(swept, measured, tmp_path):
    """Chromium reports no error and loads nothing; tables sort and have pages, labels appear, buttons change the axis.

    The page is no wider than the window, its background is dark in the dark scheme, and it is white on paper.
    """
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        names = "chromium", "google-chrome", "chromium-browser", playwright.chromium.executable_path
        executable = next(filter(None, map(shutil.which, names)), None)
        if not executable:
            pytest.skip("there is no Chromium: python -m playwright install chromium")
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for folder, _ in (swept, measured):
            for width, scheme in ((390, "light"), (1100, "dark")):
                context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
                page, problems, requests = context.new_page(), [], []
                page.on("console", lambda message, into=problems: into.append(message.text))
                page.on("pageerror", lambda error, into=problems: into.append(str(error)))
                page.on("request", lambda request, into=requests: into.append(request.url))
                page.goto((folder / "report.html").as_uri())
                page.wait_for_selector(".plot .main-svg")
                assert page.evaluate("document.documentElement.scrollWidth") == width
                page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
                is_cut = page.locator(".scroll").evaluate_all("all => all.some(s => s.scrollWidth > s.clientWidth)")
                assert not is_cut or width < 1100
                assert page.locator(".plot").count() == page.locator(".plot .cartesianlayer").count()
                background = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)")
                _sorts(page)
                _hovers(page)
                _chooses(page)
                page.emulate_media(media="print")
                assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
                assert page.pdf(format="A4").startswith(b"%PDF")
                page.set_viewport_size({"width": 720, "height": 900})  # about A4
                page.evaluate("dispatchEvent(new Event('beforeprint'))")
                page.wait_for_function("document.documentElement.scrollWidth == 720", timeout=30_000)
                assert problems == []
                assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
                context.close()
        page = browser.new_page()
        write_sweep(tmp_path, [({"learning_rate": 1e-4 * n}, float(n)) for n in range(1, 61)])
        make_page(tmp_path)
        page.goto((tmp_path / "report.html").as_uri())
        _turns_pages(page)
        many = [
            {"posterior": "student_t", "objective": "elbo", "latent_dim": 1 + n, "batch_size": 60 + n} for n in range(9)
        ]
        write_sweep(tmp_path / "long", [(point | {"epochs": 100 + n}, 1.0) for n, point in enumerate(many)])
        make_page(tmp_path / "long")
        page.goto((tmp_path / "long/report.html").as_uri())
        page.wait_for_selector(".plot .main-svg")
        # Long names in the legend leave room for the curves.
        assert page.evaluate("document.querySelector('.plot')._fullLayout._size.h") > 200
        browser.close()


def _sorts(page):
    table = page.locator("table.sortable").first
    column = table.locator("th.number").last
    place = int(column.evaluate("head => head.cellIndex"))
    for order in (1, -1):
        column.locator("button").click()
        values = table.evaluate("(t, i) => [...t.tBodies[0].rows].map(r => Number(r.cells[i].dataset.value))", place)
        assert values == sorted(values, reverse=order == -1)
        assert len(values) > 1
    assert column.get_attribute("aria-sort") == "descending"


def _turns_pages(page):
    lines = page.locator("table.paged").first.locator("tbody tr:visible")
    assert lines.count() == 50
    page.locator(".pager button").nth(1).click()
    assert lines.count() == 10
    assert "lines 51 to 60 of 60" in page.locator(".pager").first.text_content()


def _hovers(page):
    plot = page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    box = plot.locator("path.point").first.bounding_box()
    page.mouse.move(box["x"] - 30, box["y"] - 30)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    label = plot.locator(".hoverlayer .hovertext")
    label.first.wait_for(timeout=30_000)
    assert any(word in label.first.text_content() for word in ("nats", "variance"))


def _chooses(page):
    chart = page.locator(".chart").first
    before = chart.locator(".xtitle").text_content()
    chart.locator(".choices button").last.click()
    page.wait_for_function("text => document.querySelector('.chart .xtitle').textContent !== text", arg=before)
    assert chart.locator(".choices button").last.get_attribute("aria-pressed") == "true"
