"""The KAN tab: filled by itself, from a query's mask to its edges and back, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page, Route, expect

from mask2kan.checkpoints import load_model
from mask2kan.inference.kan_view import edge_view, kan_head, layer_views, query_norms
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.query_masks import query_masks
from tests.browser.conftest import WIDE
from tests.browser.steps import EXAMPLES, open_example, open_tab, settle, visit

if TYPE_CHECKING:
    from tests.serving import App

ROADS = [path for path in EXAMPLES if path.stem.startswith("street") and "_a" not in path.stem]
SERVER = re.compile("component_server")
MODULE = """(name) => {
  const [main] = performance.getEntriesByType('resource')
    .filter(({ name }) => name.endsWith('kan_panel/main.js'));
  return main.name.replace('main.js', name);
}"""


@pytest.fixture(scope="module")
def _kan(browser: Browser, app: App) -> Iterator[Page]:
    with visit(browser, app.url, viewport=WIDE) as opened:
        open_tab(opened, "KAN")
        wait_shown(opened)
        yield opened


@pytest.fixture
def kan(_kan: Page) -> Page:
    """The tab on the first example, as it is when it fills by itself; shared by tests that look."""
    _kan.mouse.move(1, 1)
    if _kan.get_attribute(".kan", "data-query"):
        _kan.click(".kan-all")
    for button in ("order=weight", "ranking=spline", "range=values", "layer='0'"):
        _kan.click(f".kan [data-{button}]")
    wait_shown(_kan)
    return _kan


@pytest.fixture(scope="module")
def computed(app: App) -> Any:
    """The head and the prediction of the first example."""
    model = load_model(str(app.models[0]), device="cpu")
    return kan_head(model), Predictor(model, device="cpu")(first_example())


def first_example() -> Path:
    from app.files.samples import sample_pictures

    return sample_pictures()[0]


def wait_shown(page: Page, **data: str) -> None:
    """Wait for a result, and for what its ``data-*`` must be."""
    selectors = "".join(f"[data-{name}='{value}']" for name, value in data.items())
    page.wait_for_selector(f".kan[data-state=ready][data-input]{selectors}")


def listed(page: Page) -> list[tuple[int, int, float]]:
    """The edges of the list: input, output and size."""
    rows = page.eval_on_selector_all(
        ".kan-edges button",
        """(buttons) => buttons.map(({ dataset, children }) =>
          [Number(dataset.input), Number(dataset.output), Number(children[1].innerText)])""",
    )
    return [tuple(row) for row in rows]


def check_largest(rows: list[tuple[int, int, float]], norms: np.ndarray) -> None:
    """The list has the largest of all edges, in order."""
    largest = np.sort(norms, axis=None)[::-1][: len(rows)]
    sizes = [norms[output, source] for source, output, _ in rows]
    np.testing.assert_allclose(sizes, largest, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose([size for _, _, size in rows], sizes, atol=6e-4)


# ------------------------------------------------------------------------------ what fills it


def test_it_fills_by_itself_and_says_the_answer_first(kan: Page, computed: Any) -> None:
    head, prediction = computed
    queries = torch.from_numpy(prediction.queries)
    shares = [view.spline_share for view in layer_views(head, queries)]
    assert kan.locator("#kan-panel button", has_text="Show").count() == 0
    sentence = kan.inner_text(".kan-answer")
    assert f"{100 * np.mean(shares):.0f} %" in sentence or "0.1 %" in sentence
    assert first_example().stem in kan.inner_text(".kan-body")
    bars = kan.eval_on_selector_all(
        ".kan-share i", "(bars) => bars.map((bar) => parseFloat(bar.style.width))"
    )
    np.testing.assert_allclose(bars, 100 * np.array(shares), atol=0.01)


def test_only_models_that_may_have_a_kan_are_offered(page: Page) -> None:
    open_tab(page, "KAN")
    page.click("#kan-model input")
    options = page.get_by_role("option").all_inner_texts()
    assert [text.strip("✓ \n") for text in options] == ["tiny_kan.safetensors"]


def test_it_follows_the_compared_picture_when_it_is_looked_at(page: Page) -> None:
    first = open_example(page, 0)
    open_tab(page, "KAN")
    wait_shown(page, run=first)
    open_tab(page, "Compare")
    second = open_example(page, 1)
    settle(page)
    assert page.get_attribute(".kan", "data-run") == first  # nobody looks
    open_tab(page, "KAN")
    wait_shown(page, run=second)
    # A result that arrives while the tab is on screen.
    page.evaluate("document.querySelectorAll('.m2k-tile')[2].click()")
    page.wait_for_function(
        """(second) => ![second, '', undefined].includes(document.querySelector('.kan').dataset.run)
          && document.querySelector('.kan').dataset.state === 'ready'""",
        arg=second,
    )
    assert page.get_attribute(".kan", "data-run") == page.get_attribute(".m2k", "data-run")


def test_answers_to_anything_but_the_latest_choice_are_dropped(kan: Page) -> None:
    """The part that asks, with a page that only writes down what it is told."""
    told = kan.evaluate(
        """async (url) => {
          const { Asking } = await import(url);
          const log = [];
          let [model, visible] = ['a', false];
          const asking = new Asking({
            visible: () => visible,
            wish: () => ({ run: null, model }),
            ask: (question) => log.push('ask ' + question.model),
            waiting: () => log.push('waiting'),
            show: (payload) => log.push('show ' + payload.model),
            refuse: (reason) => log.push('refuse ' + reason),
          });
          asking.refresh();                                // hidden
          visible = true;
          asking.refresh();
          model = 'b';
          asking.refresh();                                // the first question is still out
          asking.answered({ token: 7, model: 'a' });       // of somebody else
          asking.answered({ token: 1, model: 'a' });
          asking.answered({ token: 1, model: 'a' });       // again
          asking.answered({ token: 2, model: 'b' });
          asking.refresh();                                // nothing changed
          asking.retry();
          asking.failed('gone');
          asking.failed('gone');
          asking.refresh();                                // a refusal stays
          asking.retry();
          asking.answered({ token: 4, error: 'no' });
          return log;
        }""",
        kan.evaluate(MODULE, "asking.js"),
    )
    assert told == [
        *("waiting", "ask a"),
        *("waiting", "ask b", "show b"),
        *("waiting", "ask b", "refuse gone"),
        *("waiting", "ask b", "refuse no"),
    ]


# ------------------------------------------------------------------------------ edges


def test_the_strongest_edges_by_spline_come_first(kan: Page, computed: Any) -> None:
    head, prediction = computed
    views = layer_views(head, torch.from_numpy(prediction.queries))
    for index, view in enumerate(views):
        kan.click(f".kan [data-layer='{index}']")
        wait_shown(kan, layer=str(index))
        for name, norms in (
            ("total", view.norms),
            ("grid", view.grid_norms),
            ("spline", view.spline_norms),
        ):
            kan.click(f"[data-ranking={name}]")
            wait_shown(kan, ranking=name)
            rows = listed(kan)
            assert len(rows) == 12
            check_largest(rows, norms)
    first = listed(kan)[0]
    assert kan.get_attribute(".kan", "data-input") == str(first[0])
    assert kan.get_attribute(".kan", "data-output") == str(first[1])
    assert "mask embedding" in kan.inner_text(".kan-function")


def test_the_function_of_any_edge(kan: Page) -> None:
    kan.locator(".kan-edges button").nth(3).click()
    kan.wait_for_selector(".kan-edges li:nth-child(4) button[aria-pressed=true]")
    kan.fill("#kan-input", "5")
    kan.keyboard.press("Enter")
    wait_shown(kan, input="5")
    assert kan.locator(".kan-plot .dot").count() == 12  # the model's queries
    assert kan.locator(".kan-plot path").count() == 3
    narrow = kan.locator(".kan-plot .knot").count()
    kan.click("[data-range=knots]")
    assert kan.locator(".kan-plot .knot").count() > narrow
    kan.click(".kan-norms", position={"x": 4, "y": 4})
    wait_shown(kan, input="0", output="0")


# ------------------------------------------------------------------------------ queries


def test_from_a_mask_to_its_edges_and_back(kan: Page, computed: Any) -> None:
    head, prediction = computed
    queries = torch.from_numpy(prediction.queries)
    masks = query_masks(prediction, count=12)
    cards = kan.locator(".kan-query")
    shown = [int(card.get_attribute("data-query") or -1) for card in cards.all()]
    assert shown == [one.query for one in masks]
    for card, one in zip(cards.all(), masks, strict=True):
        assert one.label.name in card.inner_text()
    chosen = masks[2].query
    cards.nth(2).focus()
    kan.keyboard.press("Enter")
    wait_shown(kan, query=str(chosen))
    assert kan.locator(".kan-plot .dot.chosen").get_attribute("data-query") == str(chosen)
    expect(cards.nth(2)).to_have_attribute("aria-pressed", "true")
    assert str(chosen) in kan.inner_text(".kan-strongest h3")
    norms = query_norms(head, 0, queries, chosen)
    check_largest(listed(kan), norms.spline.numpy())
    kan.click("[data-ranking=total]")
    wait_shown(kan, ranking="total")
    check_largest(listed(kan), norms.total.numpy())
    assert kan.locator("[data-ranking=grid]").is_disabled()
    kan.click(".kan-all")
    wait_shown(kan, query="")
    assert kan.locator(".kan-plot .dot.chosen").count() == 0

    # and from an edge to the queries: in the order of their values, each with its dot
    kan.locator(".kan-edges button").nth(1).click()
    kan.wait_for_selector(".kan-edges li:nth-child(2) button[aria-pressed=true]")
    kan.click("[data-order=edge]")
    source, output, _ = listed(kan)[1]
    activations = edge_view(head, 0, source, output, queries).activations
    assert activations is not None
    ordered = [int(card.get_attribute("data-query") or -1) for card in cards.all()]
    assert ordered == sorted(shown, key=lambda query: activations[query])
    cards.first.hover()
    hovered = kan.locator(".kan-plot .dot.hovered")
    expect(hovered).to_have_attribute("data-query", str(ordered[0]))
    kan.mouse.move(1, 1)
    expect(hovered).to_have_count(0)
    kan.dispatch_event(f".kan-plot .dot[data-query='{ordered[3]}']", "pointerenter")
    expect(kan.locator(".kan-query.hovered")).to_have_attribute("data-query", str(ordered[3]))


# ------------------------------------------------------------------------------ refusals


def test_a_model_without_a_kan_is_refused_in_the_panel(page: Page, app: App) -> None:
    """What was shown stays, the reason too, until something else is chosen."""
    open_tab(page, "KAN")
    wait_shown(page)
    for _ in range(2):
        page.fill("#kan-model input", str(app.models[1]))
        page.keyboard.press("Enter")
        page.wait_for_selector(".kan[data-state=failed]")
        assert "is an MLP" in page.inner_text(".kan-status")
        assert page.is_visible(".kan-plot .total")
        page.click(".kan-retry")
        page.wait_for_selector(".kan[data-state=failed] .kan-retry")
        page.fill("#kan-model input", str(app.models[0]))
        page.keyboard.press("Enter")
        wait_shown(page)
        assert page.inner_text(".kan-status") == ""


def test_an_edge_that_does_not_exist_is_refused_beside_its_function(kan: Page) -> None:
    kan.fill("#kan-output", "500")
    kan.keyboard.press("Enter")
    expect(kan.locator(".kan-trouble")).to_contain_text("does not exist")
    assert kan.is_visible(".kan-trouble .kan-retry")
    kan.locator(".kan-edges button").first.click()
    expect(kan.locator(".kan-trouble")).to_be_hidden()


def test_a_late_answer_says_nothing_about_a_newer_question(page: Page) -> None:
    """Nor does a layer's own first edge take the place of one chosen while it was looked for."""
    open_tab(page, "KAN")
    wait_shown(page)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(SERVER, hold, times=1)
    with page.expect_request(SERVER):
        page.locator(".kan-edges button").nth(3).click()
    page.click(".kan [data-layer='0']")
    page.fill("#kan-output", "500")
    page.keyboard.press("Enter")
    expect(page.locator(".kan-trouble")).to_contain_text("does not exist")
    with page.expect_response(SERVER):
        held[0].continue_()
    settle(page)
    assert page.is_visible(".kan-trouble .kan-retry")


def test_a_server_that_takes_no_question(page: Page) -> None:
    """One that is gone altogether is Gradio's matter: it waits for it and loads the page again."""
    page.route("**/queue/join*", lambda route: route.fulfill(status=503, body="{}"))
    open_tab(page, "KAN")
    page.wait_for_selector(".kan[data-state=failed]")
    assert "took no question" in page.inner_text(".kan-status")
    page.unroute("**/queue/join*")
    page.click(".kan-retry")
    wait_shown(page)


def test_an_answer_whose_files_do_not_come(page: Page) -> None:
    page.route("**/photo.jpg*", lambda route: route.fulfill(status=404))
    open_tab(page, "KAN")
    page.wait_for_selector(".kan[data-state=failed]")
    assert "404" in page.inner_text(".kan-status")
    page.unroute("**/photo.jpg*")
    page.click(".kan-retry")
    wait_shown(page)


def test_a_question_about_a_function_that_gets_no_answer(page: Page) -> None:
    open_tab(page, "KAN")
    wait_shown(page)
    page.route(SERVER, lambda route: route.abort())
    page.locator(".kan-query").first.click()
    expect(page.locator(".kan-trouble")).to_contain_text("did not answer")
    page.unroute(SERVER)
    page.click(".kan-trouble .kan-retry")
    expect(page.locator(".kan-trouble")).to_be_hidden()
    page.wait_for_selector(".kan:not([data-query=''])")
