"""The interactive page: its mathematics against the package, and its handling in a real browser."""

import itertools
import json
import re
import subprocess
from pathlib import Path

import chromium
import pytest
import torch
from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import expect

from msmeta import SGD, Bilevel, FirstOrder, Implicit, MultiStep, Reptile
from msmeta.report import interactive

MODULE = Path(interactive.__file__).with_name("explore.js")
F64 = torch.float64

# The same formulas again, without derivatives: those come from autograd.
LANDSCAPES = {
    "bowl": lambda x, y: 0.75 * x * x + 0.8 * x * y + 0.3 * y * y,
    "rosenbrock": lambda x, y: 0.05 * (1 - x) ** 2 + 0.5 * (y - x * x) ** 2,
    "himmelblau": lambda x, y: ((x * x + y - 11) ** 2 + (x + y * y - 7) ** 2) / 50,
    "waves": lambda x, y: 0.1 * (x * x + y * y) + 0.3 * (2 - torch.cos(2 * x) - torch.cos(2 * y)),
}
BASE = {
    "landscape": "himmelblau", "start": [-0.4, -2.4], "target": [3.0, 2.0], "steps": 8, "window": 4, "lr": 0.1,
    "momentum": 0.8, "weight_decay": 0.0, "proximal": 1.0,
}  # fmt: skip


def in_python(setting):
    """What the package makes of a setting of the page; the implicit estimate is None where λ is too small."""
    target = torch.tensor(setting["target"], dtype=F64)
    problem = Bilevel(
        init=lambda theta: theta,
        inner=lambda phi, theta, t: LANDSCAPES[setting["landscape"]](*phi["x"]),
        outer=lambda phi, theta: (phi["x"] - target).square().sum() / 2,
    )
    theta = {"x": torch.tensor(setting["start"], dtype=F64)}
    inner = SGD(setting["lr"], setting["momentum"], setting["weight_decay"])
    estimators = {
        "exact": MultiStep(inner, setting["steps"]),
        "multistep": MultiStep(inner, setting["steps"], setting["window"], "adjoint"),
        "first_order": FirstOrder(inner, setting["steps"]),
        "reptile": Reptile(inner, setting["steps"]),
        "implicit": Implicit(inner, setting["steps"], setting["proximal"], cg_steps=8, tolerance=1e-14),
    }
    out = {name: estimator(problem, theta) for name, estimator in estimators.items()}
    found = {name: (result.grad["x"], float(result.loss)) for name, result in out.items()}
    if out["implicit"].info["indefinite_tasks"]:
        found["implicit"] = (None, found["implicit"][1])
    return found


def in_javascript(settings):
    """The page's own numbers, from the Node that Playwright brings along."""
    node, _ = compute_driver_executable()
    script = "import fs from 'fs'; const e = await import(process.argv[1]); const s = JSON.parse(fs.readFileSync(0));"
    script += "console.log(JSON.stringify(s.map(e.solve)))"
    command = [node, "--no-warnings", "--input-type=module", "-e", script, MODULE.as_uri()]
    done = subprocess.run(command, input=json.dumps(settings), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


STARTS = {"bowl": [-2.2, 0.4], "rosenbrock": [-0.9, 1.6], "himmelblau": [-0.4, -2.4], "waves": [-1.9, 1.1]}
SETTINGS = [
    {
        **BASE, "landscape": landscape, "start": STARTS[landscape], "window": window, "lr": 0.04, "momentum": momentum,
        "weight_decay": decay, "proximal": proximal,
    }
    for landscape, window, momentum, (decay, proximal) in itertools.product(
        LANDSCAPES, (1, 2, 4, 8), (0.0, 0.9), ((0.0, 1.0), (0.2, 0.1))
    )
] + [{**BASE, "steps": 1, "window": 1}, {**BASE, "steps": 15, "window": 5}]  # fmt: skip


def test_the_pages_numbers_are_the_packages():
    refused = 0
    for setting, methods in zip(SETTINGS, in_javascript(SETTINGS), strict=True):
        python = in_python(setting)
        assert methods.keys() == python.keys()
        for name, (gradient, loss) in python.items():
            found = methods[name]
            assert found["loss"] == pytest.approx(loss, rel=1e-10), (setting, name)
            if gradient is None:
                assert found["problem"] == "λ is below the loss's negative curvature"
                refused += 1
                continue
            assert found["problem"] == ""
            scale = gradient.abs().max().item()
            assert found["gradient"] == pytest.approx(gradient.tolist(), rel=1e-9, abs=1e-9 * scale), (setting, name)
            exact = python["exact"][0]
            cosine = torch.dot(gradient, exact) / (gradient.norm() * exact.norm())
            # The angle of two nearly parallel vectors is the root of a difference: 1e-16 becomes 1e-8 radians.
            assert found["angle"] == pytest.approx(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).item(), abs=3e-6)
            assert found["ratio"] == pytest.approx((gradient.norm() / exact.norm()).item(), rel=1e-8)
    assert 0 < refused < len(SETTINGS) / 3


def test_each_step_is_drawn_and_each_gradient_marked():
    (methods,) = in_javascript([BASE])
    assert [len(methods[name]["points"]) for name in ("exact", "multistep", "implicit")] == [9, 9, 9]
    assert [len(methods[name]["starts"]) for name in ("exact", "multistep")] == [8, 2]
    assert [(m["gradients"], m["products"]) for m in methods.values()] == [(8, 8), (2, 2), (8, 0), (8, 0), (9, 2)]


def test_diverging_steps_are_said_not_drawn():
    (methods,) = in_javascript([{**BASE, "landscape": "rosenbrock", "lr": 0.6, "steps": 16, "window": 2}])
    for name in ("exact", "multistep"):
        assert methods[name]["problem"] == "the steps diverge" and "angle" not in methods[name]


def test_what_the_page_says_to_try_happens():
    bowl = {**BASE, "landscape": "bowl", "start": [-2.2, 0.4], "target": [0.6, 0.9], "momentum": 0.0, "window": 8}
    waves = {**BASE, "landscape": "waves", "start": [-1.9, 1.1], "target": [0.3, 0.2]}
    settings = {
        "window": {**BASE, "momentum": 0.0},
        "long": {**BASE, "momentum": 0.0, "steps": 2, "window": 1, "lr": 0.4},
        "below": bowl,
        "beyond": {**bowl, "lr": 0.15},
        "crest": waves,
        "small": {**waves, "proximal": 0.1, "momentum": 0.0},
        "moved": {**BASE, "target": [-2.0, 1.0]},
        "base": BASE,
    }
    found = dict(zip(settings, in_javascript(list(settings.values())), strict=True))
    assert found["window"]["multistep"]["gradient"] == pytest.approx(found["long"]["exact"]["gradient"], rel=1e-12)
    assert found["below"]["multistep"]["angle"] < 20 < 60 < found["beyond"]["multistep"]["angle"]
    assert found["crest"]["first_order"]["ratio"] < 0.5
    assert "negative curvature" in found["small"]["implicit"]["problem"]
    for name in ("exact", "multistep", "first_order", "implicit"):
        assert found["moved"][name]["gradient"] != found["base"][name]["gradient"]
    assert found["moved"]["reptile"]["gradient"] == found["base"]["reptile"]["gradient"]


@pytest.fixture
def page(tmp_path):
    """What the page shows, in Debian's Chromium."""
    with chromium.opened(tmp_path, interactive.Interactive("explore")._repr_html_(), 900) as tab:
        yield tab


def shown(tab, method):
    """The full-precision numbers behind a row: loss, gradient, angle, ratio, gradients, products."""
    cells = tab.locator(f'tr[data-method="{method}"] td').all()
    return [json.loads(cell.get_attribute("data-value")) for cell in cells]


def drawing(tab, method):
    return tab.locator(f".explore-plot path.explore-path.explore-{method}").get_attribute("d")


def check_against_python(tab, setting):
    for name, (gradient, loss) in in_python(setting).items():
        found = shown(tab, name)
        assert found[0] == pytest.approx(loss, rel=1e-10) and found[1] == pytest.approx(gradient.tolist(), rel=1e-9)
        texts = tab.locator(f'tr[data-method="{name}"] td').all_inner_texts()
        assert texts[0] == f"{loss:.3f}" and texts[1].replace("−", "-") == ", ".join(f"{g:.3f}" for g in gradient)


def test_the_sliders_move_drawing_and_numbers(page):
    check_against_python(page, BASE)
    before = drawing(page, "multistep"), shown(page, "multistep"), drawing(page, "exact")
    page.get_by_label("Window N").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("output[for=explore-window]")).to_have_text("8")
    assert drawing(page, "multistep") != before[0] and shown(page, "multistep") != before[1]
    assert drawing(page, "exact") == before[2] and shown(page, "multistep")[4:] == [1, 1]
    check_against_python(page, {**BASE, "window": 8})
    expect(page.locator(".explore-summary")).to_contain_text("N = 8: 1 of 8 second-order products")

    page.get_by_label("Steps T").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("output[for=explore-window]")).to_have_text("3")  # the largest divisor of 9 up to 8
    check_against_python(page, {**BASE, "steps": 9, "window": 3})
    for label, key, name, value in (("Rate η", "ArrowLeft", "lr", 0.09), ("Momentum μ", "ArrowLeft", "momentum", 0.75),
                                    ("Weight decay ω", "ArrowRight", "weight_decay", 0.01)):  # fmt: skip
        page.get_by_label(label).focus()
        page.keyboard.press(key)
        moved = {**BASE, "steps": 9, "window": 3, name: value}
        assert shown(page, "multistep")[0] == pytest.approx(in_python(moved)["multistep"][1], rel=1e-9), label
        page.keyboard.press("ArrowLeft" if key == "ArrowRight" else "ArrowRight")
    page.get_by_role("button", name="Reset").click()
    check_against_python(page, BASE)


def test_start_and_target_move_by_mouse_and_by_keys(page):
    start, target = (page.get_by_role("button", name=re.compile(name)) for name in ("Start θ", "Target"))
    expect(start).to_have_attribute("aria-label", re.compile(r"x −0\.40, y −2\.40"))
    before, outer = shown(page, "reptile"), shown(page, "exact")
    box = start.bounding_box()
    centre = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*centre)
    page.mouse.down()
    page.mouse.move(centre[0] + 60, centre[1] - 40, steps=4)
    page.mouse.up()
    expect(start).not_to_have_attribute("aria-label", re.compile(r"x −0\.40"))
    assert shown(page, "reptile") != before
    page.get_by_role("button", name="Reset").click()
    assert shown(page, "exact") == outer

    target.focus()
    page.keyboard.press("ArrowUp")
    moved = float(re.search(r"y ([\d.]+)", target.get_attribute("aria-label"))[1])
    assert moved > 2.0 and shown(page, "reptile")[1] == before[1] and shown(page, "exact") != outer
    page.mouse.move(*centre)  # a pointer that only passes by moves nothing
    page.mouse.move(centre[0] + 30, centre[1])
    assert shown(page, "reptile")[1] == before[1]


def test_each_landscape_draws_and_a_divergence_is_said(page):
    lines = set()
    for name in LANDSCAPES:
        page.get_by_label("Inner loss", exact=True).select_option(name)
        levels = page.locator(".explore-levels path").evaluate_all("all => all.map(p => p.getAttribute('d'))")
        assert len(levels) == 14 and all(levels)
        lines.add("".join(levels))
    assert len(lines) == len(LANDSCAPES)
    page.get_by_label("Inner loss", exact=True).select_option("rosenbrock")
    page.get_by_label("Rate η").press("End")
    expect(page.locator('tr[data-method="exact"]')).to_contain_text("the steps diverge")
    assert drawing(page, "exact") == ""


def test_a_phone_and_dark_mode(page):
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    size = page.get_by_label("Window N").bounding_box()
    assert size["height"] >= 24 and size["x"] + size["width"] <= 360
    colour = "() => getComputedStyle(document.querySelector('.explore-path.explore-multistep')).stroke"
    light = page.evaluate(colour)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert page.evaluate(colour) != light
    methods = page.locator(".explore-sample .explore-path")
    strokes = methods.evaluate_all("all => all.map(p => getComputedStyle(p).stroke)")
    dashes = methods.evaluate_all("all => all.map(p => p.getAttribute('stroke-dasharray'))")
    assert len(set(strokes)) == len(set(dashes)) == 5  # colour is not the only difference
