"""Cards that anybody may have written, as HTML on our page."""

from __future__ import annotations

import pytest

from app.services.cards import hub_card, licence_in, rendered


@pytest.mark.parametrize(
    "harmful",
    [
        "<script>alert(1)</script>",
        "<style>body { display: none }</style>",
        '<link rel="stylesheet" href="https://evil.example/x.css">',
        '<object data="https://evil.example/x"></object>',
        '<embed src="https://evil.example/x">',
        '<iframe src="https://evil.example/x"></iframe>',
        '<form action="https://evil.example/x"><button>Go</button></form>',
        '<input type="image" src="https://evil.example/x">',
        '<img src="https://evil.example/x.png">',
        '<svg><image href="https://evil.example/x"/></svg>',
        '<picture><source srcset="https://evil.example/x"></picture>',
        '<video src="https://evil.example/x" autoplay></video>',
        '<audio src="https://evil.example/x"></audio>',
        '<base href="https://evil.example/">',
        '<meta http-equiv="refresh" content="0; url=https://evil.example/">',
        '<p style="background: url(https://evil.example/x)">',
        '<td background="https://evil.example/x">',
        "![x](https://evil.example/x.png)",
        "![x][y]\n\n[y]: https://evil.example/x.png",
        '<b onclick="alert(1)">',
        "<b onclick=alert(1)//",
        '<a href="javascript:alert(1)">x</a>',
        '<a href="java&#10;script:alert(1)">x</a>',
        '<a href="data:text/html,alert(1)">x</a>',
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
        "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    ],
)
def test_nothing_harmful_is_left(harmful: str) -> None:
    shown = rendered(f"Before {harmful}\n\n{harmful}\n\nafter", "https://hub.example/")
    assert "Before" in shown
    assert "evil.example" not in shown
    # As text it may stay: nothing of it is a tag or an attribute.
    tags = [part.split(">")[0] for part in shown.split("<")[1:]]
    for tag in tags:
        assert "alert" not in tag
        assert "style" not in tag
        assert tag.split()[0].strip("/") in {"p", "b", "a", "table", "td", "tr", "tbody"}


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("a < b && b > c", "<p>a &lt; b &amp;&amp; b &gt; c</p>"),
        ("`<script>` runs", "<p><code>&lt;script&gt;</code> runs</p>"),
        (
            "```html\n<form>\n\n  <img src=x>\n```",
            "<pre><code>&lt;form&gt;\n\n  &lt;img src=x&gt;\n</code></pre>",
        ),
        ("> quoted", "<blockquote>\n<p>quoted</p>\n</blockquote>"),
        ("~~old~~ **new**", "<p><s>old</s> <strong>new</strong></p>"),
        ("<details><summary>More</summary>x</details>",) * 2,
        ("![a street](x.png)", "<p>a street</p>"),
        ("![<b>](x.png)", "<p>&lt;b&gt;</p>"),
    ],
)
def test_ordinary_markdown_survives(markdown: str, html: str) -> None:
    assert rendered(markdown).strip() == html


def test_tables_survive() -> None:
    shown = rendered("| a | b |\n|---|--:|\n| 1 < 2 | `<p>` |\n")
    assert "<th>a</th>" in shown
    assert "<td>1 &lt; 2</td>" in shown
    assert "<td><code>&lt;p&gt;</code></td>" in shown


def test_links_lead_to_the_repository_in_a_page_of_their_own() -> None:
    def place(link: str) -> str:
        shown = rendered(link, "https://hub.example/someone/tiny/blob/main/")
        assert 'target="_blank"' in shown
        assert 'rel="noopener noreferrer"' in shown
        return shown.split('href="')[1].split('"')[0] if "href" in shown else ""

    files = "https://hub.example/someone/tiny/blob/main"
    assert place("[x](./a/train.py)") == f"{files}/a/train.py"
    assert place('<a href="train.py">x</a>') == f"{files}/train.py"
    assert place("[x](#below)") == ""  # headings have no anchors here
    assert place("see https://else.example/z") == "https://else.example/z"
    assert place("[x](mailto:a@b.example)") == "mailto:a@b.example"
    assert place("[x](https://else.example/y)") == "https://else.example/y"
    assert not place('<a href="https://[">x</a>')


def test_the_licence_is_what_the_front_matter_states() -> None:
    assert licence_in("---\nlicense: mit\n---\n# x") == "mit"
    assert licence_in("---\nlicense: 'cc-by-4.0'\n---") == "cc-by-4.0"
    assert licence_in("---\nlicense: other\n---\n") is None
    assert licence_in("# x\nlicense: mit\n") is None
    assert licence_in("---\r\nlicense: mit\r\n---\r\n# x") == "mit"
    assert licence_in("---\nlicense:\nbase_model: x\n---\n") is None


def test_what_a_long_card_lacks_is_said() -> None:
    card = "---\nlicense: mit\n---\n" + "A line of ten words, as one of a card has.\n" * 2_000
    shown = hub_card("someone/tiny", card)
    assert "license: mit" not in shown
    assert shown.count("as one of a card has.") == 12_000 // 43
    assert "The card goes on in" in shown
    assert "The card goes on" not in hub_card("someone/tiny", card[:12_000])


def test_wide_tables_of_few_lines_survive() -> None:
    wide = "|" + "a|" * 150 + "\n|" + "-|" * 150 + "\n"
    assert "<th>a</th>" in rendered(wide + "|1|\n" * 100)
    assert "<th>a</th>" in rendered("|a|b|\n|-|-|\n" + "|1|2|\n" * 5_000)
