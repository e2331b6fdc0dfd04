"""The report page in a real browser: it renders, says what its JSON says, and runs nothing."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import browser, folders, in_process, oracle

pytest.importorskip("jinja2", reason="the extra 'report' is not installed")
pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")

from zoofast import load_recipe, open_source
from zoofast.evaluation.result import Evaluation
from zoofast.inference.spec import ModelSpec
from zoofast.report import (
    Bars,
    Column,
    Facts,
    Figure,
    Figures,
    Lines,
    Pair,
    Pairs,
    Picture,
    Pictures,
    ReportData,
    Section,
    Series,
    Stacks,
    Strip,
    Strips,
    Table,
    Text,
    as_json,
    charts,
    render,
    thumbnail,
)
from zoofast.report.bench import QUANTILES, bench_report
from zoofast.report.eval import eval_report
from zoofast.report.running import timeline
from zoofast.timing.timeline import STAGES, Span

PAGE_CSS = Path(charts.__file__).with_name("page.css")

HOSTILE = [
    "<script>alert(1)</script>\"'&",
    "</script><script>document.title='owned'</script>",
    "<!--<script>",
    "--></style><img src=x onerror=alert(1)>",
    "$\\frac{1}{0$ {{ 7*7 }} {% raw %}",
    '#000010 style="fill: #000011" ]]>',
    "n\u2028l\x01\x7f \u202e猫 🐈 &lt;b&gt;",
]


def write_report(path: Path, report: ReportData) -> None:
    path.write_text(render(report), "utf-8")


def _png(folder: Path) -> bytes:
    path = folder / "x.png"
    Image.fromarray(np.full((40, 60, 3), (200, 30, 30), np.uint8)).save(path)
    return path.read_bytes()


def _everything(names: list[str], uri: str | None = None) -> ReportData:
    """Every kind of block, with `names` wherever a name can stand."""
    first, numbers = names[0], [0.1 + i * 1234.5678 for i in range(len(names))]
    pictures = [Picture(uri, name, name, name, 98.7654) for name in names]
    blocks = [
        Figures([Figure(name, 0.12345, name, 3, name) for name in names]),
        Text(names),
        Facts({name: name for name in names}, first),
        Facts({name: name for name in names}, code=True),
        Table(
            first,
            [Column(first, first), Column(first, digits=2), Column("")],
            [(name, value, None) for name, value in zip(names, numbers, strict=True)],
            first,
        ),
        Bars(first, names, numbers, first, 1, first),
        Stacks(first, {name: {"read": 1.25, first: 2.0} for name in names}, first, 2),
        Lines(first, [Series(name, [1, 2.5, 8], [3.0, 1e6, 7.25]) for name in names], first, first),
        Lines(first, [Series(first, [1, 2, 64], [3, 4, 5.5])], first, first, log_x=True, digits=1),
        Strips(first, [Strip(name, "decode", i, i + 1.5) for i, name in enumerate(names)]),
        Pictures(first, pictures, first),
        Pairs(first, [Pair(name, name, 3, pictures[:2]) for name in names], first),
    ]
    figures = [Figure(first, 1234567.891, first, 1), Figure(first, None), Figure(first, first)]
    return ReportData(first, first, figures, names, [Section(first, blocks)])


def _value_at(figures: Any, path: str) -> Any:
    """The value in the JSON that an element's data-path names."""
    head, *keys = path.split("/")
    for key in head.split("."):
        figures = figures[int(key) if isinstance(figures, list) else key]
    for key in keys:
        figures = figures[key]
    return figures


def _check_figures(page: browser.Page) -> int:
    """Every number on the page is the one in the JSON, rounded as shown; how many there are."""
    [data] = [text for a, text in page.all("script") if a.get("id") == "figures"]
    figures = json.loads(data)
    shown = page.all("data")
    for attributes, text in shown:
        value = _value_at(figures, str(attributes["data-path"]))
        assert json.loads(str(attributes["value"])) == value
        digits = len(text.partition(".")[2])
        assert text == f"{value:,.{digits}f}"
    return len(shown)


def test_a_page_renders_and_its_figures_are_those_of_its_json(tmp_path: Path) -> None:
    names = ["alpha", "beta", "gamma"]
    uri = thumbnail(_png(tmp_path))
    report = _everything(names, uri)
    write_report(tmp_path / "r.html", report)
    shown = browser.show(tmp_path / "r.html")
    assert shown.console == []
    # figures 1 + 3, table 3, bars 3, stacks 6, lines 18 + 6, pictures 3, pairs 3
    assert _check_figures(shown.page) == 46
    [data] = [text for a, text in shown.page.all("script") if a.get("id") == "figures"]
    assert json.loads(data) == json.loads(json.dumps(as_json(report)))
    assert shown.page.all("title")[0][1] == "alpha"
    assert "1,234,567.9" in shown.page.text
    assert len(shown.page.all("svg")) == 2 * 5  # a wide and a narrow one of each chart
    assert [a["src"] for a, _ in shown.page.all("img")] == [uri] * (3 + 3 * 2)


def test_hostile_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    report = _everything(HOSTILE)
    write_report(tmp_path / "r.html", report)
    shown = browser.show(tmp_path / "r.html")
    # the content security policy would report a script that it stopped
    assert shown.console == []
    page = shown.page
    scripts = page.all("script")
    assert [a for a, _ in scripts] == [{"type": "application/json", "id": "figures"}]
    assert json.loads(scripts[0][1]) == json.loads(json.dumps(as_json(report)))
    assert page.all("title")[0][1] == HOSTILE[0]
    assert page.all("img") == []
    assert not [a for _, a, _ in page.elements if any(name.startswith("on") for name in a)]
    paragraphs = [text for _, text in page.all("p")]
    cells = [text.strip() for _, text in page.all("td")]
    labels = [text for _, text in page.all("text")]
    for name in HOSTILE:
        assert name in paragraphs
        assert name in cells
        # charts have no room for more, and a dot for what cannot be printed
        begin = "".join(c if c.isprintable() else "·" for c in name[:9])
        assert any(label.startswith(begin) for label in labels)


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    html = render(_everything(["alpha"], thumbnail(_png(tmp_path))))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    page = browser.Page(html)
    loading = {"src", "href", "xlink:href", "action", "srcset", "data"}
    for _, attributes, _ in page.elements:
        for name in loading & attributes.keys():
            assert str(attributes[name]).startswith(("#", "data:image/jpeg;base64,"))
    assert "@import" not in html and "url(http" not in html
    ids = [a["id"] for _, a, _ in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for clip in (a["clip-path"] for _, a, _ in page.elements if "clip-path" in a):
        assert str(clip).removeprefix("url(#").removesuffix(")") in ids


def test_names_that_are_no_unicode_can_be_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_report(tmp_path / "r.html", _everything([name]))
    shown = browser.show(tmp_path / "r.html")
    assert shown.console == []
    assert "caf\\udce9" in shown.page.text


def test_numbers_that_json_lacks_become_null() -> None:
    report = ReportData("t", "", [Figure("a", float("nan")), Figure("b", float("inf"))], [])
    assert [figure["value"] for figure in as_json(report)["figures"]] == [None, None]
    assert "NaN" not in render(report)


def test_every_stage_has_a_colour_in_every_style() -> None:
    css = PAGE_CSS.read_text("utf-8")
    light, dark = css.split("@media (prefers-color-scheme: dark)", 1)
    for stage, shade in charts.STAGE_COLOURS.items():
        variable = f"--c-{shade[-2:]}:"
        assert variable in light, f"{stage}: {variable} is missing in page.css"
        assert variable in dark or stage == "idle", f"{stage}: {variable} has no dark colour"
    assert list(charts.STAGE_COLOURS)[:-1] == list(STAGES)
    assert len(set(charts.STAGE_COLOURS.values())) == len(STAGES) + 1


def test_lanes_of_a_timeline_are_in_natural_order() -> None:
    spans = [
        Span(thread, "read", 10 * i, 10 * i + 9, 0)
        for i, thread in enumerate(
            ["device 1", "main", "worker 10", "writer 0", "device 0", "worker 2", "worker 0"]
        )
    ]
    rows = list(dict.fromkeys(strip.row for strip in timeline(spans).strips))
    natural = ["worker 0", "worker 2", "worker 10", "writer 0", "main", "device 0", "device 1"]
    assert rows == natural


@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
@pytest.mark.parametrize("count", [2, 5, 9, 10])
def test_a_legend_reads_in_order_row_by_row(width: float, count: int) -> None:
    parts = list(STAGES[:count])
    stacks = Stacks("t", {"row": dict.fromkeys(parts, 1.0)})
    svg = charts.draw(stacks, "key")[0 if width == charts.WIDE else 1]
    found = re.findall(
        r'<text [^>]*?(?:x="|translate\()([\d.]+)"?,? (?:y=")?([\d.]+)[^>]*>(\w+)<', svg
    )
    places = {text: (round(float(y)), float(x)) for x, y, text in found}
    assert sorted(parts, key=places.__getitem__) == parts
    rows = [places[part][0] for part in parts]
    if len(set(rows)) > 1:  # a label may be alone in the last row only
        assert min(rows.count(row) for row in rows[:-1]) >= 2


def test_every_page_has_its_date() -> None:
    report = ReportData("t", "s", [], [])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", report.date)
    assert f"<time>{report.date}</time>" in render(report)


@pytest.mark.parametrize("width", [390, 1000])
def test_nothing_is_wider_than_the_screen(tmp_path: Path, width: int) -> None:
    """A page twice as wide as the window would show nothing of the body's right margin."""
    write_report(tmp_path / "r.html", _everything(["a rather long name " * 4, "b"]))
    browser.screenshot(tmp_path / "r.html", tmp_path / "r.png", width, 1500)
    with Image.open(tmp_path / "r.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (1500, width, 3)
    background = pixels[2, 2]
    assert (pixels[:, -6:] == background).all()
    assert (pixels[:, 6:-6] != background).any()


@pytest.mark.parametrize("width", [500, 1000])  # Chromium's windows have at least 500 pixels
def test_a_long_name_hides_no_other_column(tmp_path: Path, width: int) -> None:
    """Only the last column differs, so the page looks different only if it is on the screen."""
    shots = []
    for reason in ("damaged", "missing"):
        table = Table("", [Column("image"), Column("reason")], [("x" * 255, reason)])
        report = ReportData("t", "s", [], [], [Section("s", [table])], date="today")
        write_report(tmp_path / "r.html", report)
        browser.screenshot(tmp_path / "r.html", tmp_path / "r.png", width, 900)
        with Image.open(tmp_path / "r.png") as image:
            shots.append(np.asarray(image.convert("RGB")))
    assert (shots[0] != shots[1]).any()


def test_a_thumbnail_is_small_and_broken_images_have_none(tmp_path: Path) -> None:
    uri = thumbnail(_png(tmp_path), side=30)
    assert uri is not None and uri.startswith("data:image/jpeg;base64,") and len(uri) < 2000
    assert thumbnail(b"") is None
    assert thumbnail(b"\xff\xd8\xff\xe0 and no more") is None


def test_score_reports_what_it_scores(tmp_path: Path) -> None:
    results, images = tmp_path / "results", tmp_path / "images"
    results.mkdir()
    images.mkdir()
    labels = []
    for i in range(6):
        scores = np.zeros(4)
        scores[i % 4] = 5.0 + i
        (results / f"img{i}_0.txt").write_text(" ".join(f"{x:f}" for x in scores) + " ")
        labels.append(f"img{i}.JPEG {min(i, 3)}\n")
        Image.new("RGB", (64, 48), (40 * i, 90, 20)).save(images / f"img{i}.JPEG")
    (tmp_path / "val_label.txt").write_text("".join(labels))
    page, figures = tmp_path / "s.html", tmp_path / "s.json"
    done = in_process.zoofast(
        "score", results, tmp_path / "val_label.txt", "--report", page, "--images", images,
        "--json", figures,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = browser.show(page)
    assert shown.console == []
    assert _check_figures(shown.page) > 10
    top1 = json.loads(figures.read_text())["accuracy"]["top1"]
    assert top1 == pytest.approx(4 / 6)
    first = next(text for a, text in shown.page.all("data") if a["data-path"] == "figures.0.value")
    assert first == f"{100 * top1:.2f}" == "66.67"
    # img4 and img5 are predicted as 0 and 1, img5 with the higher confidence; then a pair of 3 and
    # each prediction
    names = [a["alt"] for a, _ in shown.page.all("img")]
    assert names == ["img5", "img4", "img4", "img5"]


def test_eval_reports_what_it_scores(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from tests.support import models

    hostile = "<img src=x onerror=alert(1)>&amp;'"
    files = {name: data for name, data in folders.good_files(12).items()}
    files |= {f"{hostile}{i}.JPEG": data for i, data in enumerate(list(files.values())[:3])}
    folders.write(tmp_path / "images", files | {"bad<b>.JPEG": b"no image"})
    folders.recipe_file(tmp_path, oracle.Spec(size=(5, 5), crop=(4, 4)))
    models.write_model(tmp_path / "m.onnx", 4)
    synsets = [f"n{i:08d}" for i in range(models.CLASSES)]
    (tmp_path / "synsets.txt").write_text(
        "".join(f"{name} {i + 1} <script>alert({i})</script>\n" for i, name in enumerate(synsets))
    )
    for i, name in enumerate(sorted(path.name for path in (tmp_path / "images").iterdir())):
        folder = tmp_path / "classes" / synsets[i % models.CLASSES]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((tmp_path / "images" / name).read_bytes())
    page, figures = tmp_path / "e.html", tmp_path / "e.json"
    done = in_process.zoofast(
        "eval", tmp_path / "m.onnx", tmp_path / "classes", "--labels-from", tmp_path / "classes",
        "--synsets", tmp_path / "synsets.txt", "--recipe", tmp_path / "recipe.toml", "--report",
        page, "--json", figures, "--trace", tmp_path / "t.json",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # of the bad one
    numbers = json.loads(figures.read_text())
    shown = browser.show(page)
    assert shown.console == []
    assert _check_figures(shown.page) > 30
    values = {a["data-path"]: a["value"] for a, _ in shown.page.all("data")}
    score = numbers["score"]
    headline = [100 * score["accuracy"]["top1"], 100 * score["accuracy"]["top5"], score["images"]]
    assert [float(str(values[f"figures.{i}.value"])) for i in range(3)] == headline
    rate = numbers["images_per_second"]
    assert rate in [float(str(value)) for at, value in values.items() if "figures." in str(at)]
    # pictures only of what is wrong, and names are text
    pictures = shown.page.all("img")
    assert pictures
    assert all(str(a["src"]).startswith("data:image/") for a, _ in pictures)
    wrong = score["images"] - round(score["accuracy"]["top1"] * score["images"])
    in_pairs = [a for a, _ in pictures if "title" in a]
    assert len(pictures) - len(in_pairs) == wrong
    assert in_pairs
    assert "<script>alert(" in shown.page.text
    assert len(shown.page.all("script")) == 1
    assert "bad<b>" in shown.page.text
    assert numbers["recipe"]["digest"] in shown.page.text


def test_bench_reports_its_table(tmp_path: Path) -> None:
    page, figures = tmp_path / "b.html", tmp_path / "b.json"
    done = in_process.zoofast(
        "bench", "-m", "{bs}x3x8x8:uint8:10", "--backend", "null", "--batchsize", "1,4", "--loop",
        "5", "--report", page, "--json", figures,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = browser.show(page)
    assert shown.console == []
    assert _check_figures(shown.page) > 10
    [data] = [text for a, text in shown.page.all("script") if a.get("id") == "figures"]
    table = json.loads(data)["sections"][0]["blocks"][2]
    expected = json.loads(figures.read_text())["rows"]
    assert [row[:2] for row in table["rows"]] == [
        [row["batchsize"], row["images_per_second"]] for row in expected
    ]


def test_the_page_of_eval_names_what_was_lost(tmp_path: Path) -> None:
    folders.write(tmp_path, folders.good_files(1))
    specs = [ModelSpec("4x3x224x224:float32:10", "null", device) for device in (0, 1)]
    evaluation = Evaluation(load_recipe("alexnet"), "val", specs, total=1, skipped=0)
    evaluation.state = "complete"
    evaluation.lost_devices = {1: "device 1: the card is gone"}
    evaluation.lost_nodes = {"b": "b: has no model"}
    with open_source(tmp_path) as source:
        page = eval_report(evaluation, [], source)
    assert page.summary == [
        "No image went through the model in this run.",
        "Lost: device 1: the card is gone; the other devices computed its batches.",
        "Lost: b: has no model; the other nodes computed its batches.",
    ]


def _bench_numbers(**more: Any) -> dict[str, Any]:
    """The batch size 8 has the best throughput; 4 is the row of the limit."""
    latency = dict.fromkeys(QUANTILES, 2.5)
    rows = [
        {"batchsize": size, "best": size == 4, "images_per_second": rate, "latency_ms": latency,
         "levels": [{"concurrency": 2, "images_per_second": rate - 1, "host_latency_ms": latency}]}
        for size, rate in ((4, 1000.0), (8, 2000.0))
    ]  # fmt: skip
    return {"model": "m.om", "device": 0, "loop": 9, "duration": None, "rows": rows,
            "failures": {}, **more}  # fmt: skip


def test_the_benchs_page_is_about_the_limit_of_the_latency() -> None:
    within = {"batchsize": 4, **_bench_numbers()["rows"][0]["levels"][0]}
    page = bench_report(_bench_numbers(max_latency_ms=3.0, best_within=within), [])
    assert [(figure.label, figure.value) for figure in page.figures] == [
        ("throughput", 999.0),  # not "best throughput": that is 2,000
        ("at batch size", 4),
        ("at concurrency", 2),
        ("p99 latency", 2.5),
    ]
    page = bench_report(_bench_numbers(max_latency_ms=1.5, best_within=None), [])
    assert page.summary[0] == "No batch size has a p99 latency of at most 1.5 ms."
    assert bench_report(_bench_numbers(), []).figures[0].label == "best throughput"


def test_images_without_a_report_are_refused(tmp_path: Path) -> None:
    done = in_process.zoofast("score", tmp_path, tmp_path / "val_label.txt", "--images", tmp_path)
    assert done.returncode == 2
    assert "--report" in done.stderr
