"""The report is one file that needs nothing else, says what it was given, and is drawn by a real browser."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from custom_transforms import keys
from custom_transforms.physics import sphere_field
from custom_transforms.report.html import LARGEST_BYTES, write_report
from custom_transforms.report.html_maps import FIELD_RESIDUAL, MapForReport
from custom_transforms.report.html_regions import RegionRow
from custom_transforms.report.html_residuals import field_residual, rate_residual

EVIL = "<script>alert('x')</script>\"'&"
SECTIONS = ["warnings", "measured", "maps", "residuals", "histograms", "regions", "viewer", "settings"]
AFFINE = np.array([[-2.0, 0, 0, 40], [0, 0, 2, -30], [0, 2, 0, -50], [0, 0, 0, 1]])
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--dump-dom",
]
OWN_HOSTS = ("google.com", "googleapis.com", "gvt1.com")  # Chromium calls its maker, whatever it shows


class Page(HTMLParser):
    """Elements with their attributes, and the text of all of them but scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.text = ""
        self.open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.open = tag

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open == "script":
            self.scripts.append((self.elements[-1][1], data))
        elif self.open != "style":
            self.text += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def viewer(self) -> dict[str, str]:
        return next(section for section in self.of("section") if section["id"] == "viewer")


def subject(shape: tuple[int, int, int] = (40, 36, 45)) -> dict[str, Any]:
    """A ball with a bright core, in an affine that permutes and flips axes."""
    index = np.stack(np.indices(shape), axis=-1)
    radius = np.linalg.norm((index - (np.array(shape) - 1) / 2) / shape, axis=-1)
    mask = (radius < 0.42).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.01, shape)
    chi = mask * (0.03 + 0.05 * (radius < 0.1) + noise)
    maps = {keys.MAGNITUDE: 1 + mask + noise, keys.R2PRIME: 100 * chi, keys.CHI_PARA: chi, keys.CHI_TOTAL: chi - 0.03}
    return {
        "title": "sub-01",
        "maps": {name: MapForReport.named(name, values) for name, values in maps.items()},
        "mask": mask,
        "affine": AFFINE,
        "measured": {"R2'": "predicted from R2*"},
        "provenance": {"settings": {"variant": "unrolled", "path": Path("a/b")}, "free text": "as it is"},
        "warnings": ["The sign is in doubt."],
        "residuals": {FIELD_RESIDUAL: MapForReport.named(FIELD_RESIDUAL, mask * 0.003)},
        "regions": [
            RegionRow("putamen", "chi_para", "ppm", 0.0712, 0.05, 0.01, 2.12, 4000.0),
            RegionRow("putamen", "R2'", "1/s", 9.0),
            RegionRow("thalamus", "chi_para", "ppm", 0.045, 0.05, 0.01, -0.5, 7000.0),
        ],
        "regions_note": "From a template.",
    }


def write(folder: Path, **changes: Any) -> tuple[Path, str]:
    path = folder / "report.html"
    write_report(path, **{**subject(), **changes})
    return path, path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return write(tmp_path_factory.mktemp("report"))


def test_sections_come_in_order_and_hold_what_was_given(report: tuple[Path, str]) -> None:
    page = Page(report[1])
    assert [section["id"] for section in page.of("section")] == SECTIONS
    for text in (
        "The sign is in doubt.",
        "predicted from R2*",
        "From a template.",
        "as it is",
        '"variant": "unrolled"',
    ):
        assert text in page.text
    assert "RMS 0.003 ppm" in re.sub(r"\s+", " ", page.text)
    assert {"map-magnitude", "map-chi_para", "map-field_residual"} <= {card["id"] for card in page.of("article")}
    assert len(page.of("img")) == 5 * 13
    assert len(page.of("svg")) == 5
    assert [image["alt"] for image in page.of("img")][7] == "coronal, y = 0 mm"


def test_nothing_is_fetched(report: tuple[Path, str]) -> None:
    page = Page(report[1])
    links = [value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")]
    assert len(links) > 50
    assert all(link.startswith(("#", "data:")) for link in links)
    style = report[1].split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    policy = next(meta["content"] for meta in page.of("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none';") and "http" not in policy and "*" not in policy


def test_only_the_script_of_the_page_may_run(report: tuple[Path, str]) -> None:
    page = Page(report[1])
    policy = next(meta["content"] for meta in page.of("meta") if "http-equiv" in meta)
    running = [text for attributes, text in page.scripts if "type" not in attributes]
    assert len(running) == 1
    assert base64.b64encode(hashlib.sha256(running[0].encode()).digest()).decode() in policy
    assert "</script" not in running[0].lower()


def test_everything_is_escaped(tmp_path: Path) -> None:
    shown = {EVIL: MapForReport(subject()["mask"], EVIL, unit=EVIL, about=EVIL, note=EVIL)}
    _, html = write(
        tmp_path,
        title=EVIL,
        maps=shown,
        residuals=shown,
        warnings=[EVIL],
        measured={EVIL: EVIL},
        provenance={EVIL: {EVIL: [EVIL]}},
        regions=[RegionRow(EVIL, EVIL, EVIL, 1.0)],
        regions_note=EVIL,
    )
    page = Page(html)
    assert "<script>alert" not in html
    assert [attributes.get("type") for attributes in page.of("script")] == ["text/plain"] * 2 + [
        "application/json",
        None,
    ]
    assert page.text.count(EVIL) >= 12
    listed = next(text for attributes, text in page.scripts if attributes.get("id") == "viewer-volumes")
    assert json.loads(listed)[0]["unit"] == EVIL
    # the same text without escaping is a script of its own
    assert len(Page(html.replace("&lt;", "<").replace("&gt;", ">")).of("script")) > len(page.of("script"))


def test_regions_and_their_table(report: tuple[Path, str]) -> None:
    page = Page(report[1])
    assert [cell.get("class") for cell in page.of("td")].count("beyond") == 1
    assert "0.071200.05000±0.01000;z+2.1" in re.sub(r"\s+", "", page.text)
    assert "z \N{MINUS SIGN}0.5" in page.text
    link = next(link for link in page.of("a") if "download" in link)["href"]
    rows = [line.split("\t") for line in base64.b64decode(link.split("base64,")[1]).decode().splitlines()]
    assert rows[0] == list(RegionRow._fields)
    assert rows[1] == ["putamen", "chi_para", "ppm", "0.0712", "0.05", "0.01", "2.12", "4000.0"]
    assert rows[2][4:] == ["n/a"] * 4


def test_report_without_what_is_optional(tmp_path: Path) -> None:
    _, html = write(tmp_path, warnings=(), residuals=None, regions=())
    page = Page(html)
    present = [section["id"] for section in page.of("section")]
    assert present == [name for name in SECTIONS if name not in ("residuals", "regions")]
    assert next(section for section in page.of("section") if section["id"] == "warnings")["class"] == "none"


def test_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: tuple[Path, str]) -> None:
    assert report[0].stat().st_size < LARGEST_BYTES
    limit = report[0].stat().st_size - 10_000
    monkeypatch.setattr("custom_transforms.report.html.LARGEST_BYTES", limit)
    path, html = write(tmp_path)
    assert path.stat().st_size <= limit
    assert "voxels finer than 1 mm" in report[1]
    assert "voxels finer than 1 mm" not in html


def test_maps_on_another_grid_are_refused(tmp_path: Path) -> None:
    other = {"chi_para": MapForReport.named("chi_para", np.zeros((40, 36, 44)))}
    with pytest.raises(ValueError, match=r"chi_para has the shape \(40, 36, 44\), the mask \(40, 36, 45\)"):
        write(tmp_path, maps=other)
    with pytest.raises(ValueError, match="at least one map"):
        write(tmp_path, maps={})
    with pytest.raises(ValueError, match="affine"):
        write(tmp_path, affine=np.eye(3))


def browse(path: Path, folder: Path, *flags: str) -> Page:
    """Let Chromium draw a page, and give it as the scripts left it."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: looked for chromium, chromium-browser, google-chrome and chrome")
    command = [CHROMIUM, *FLAGS, *flags, "--virtual-time-budget=30000", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return Page(done.stdout)


def requests_of(log: Path) -> set[str]:
    """Hosts that a browser asked for anything."""
    return set(re.findall(r'"url":"(?:https?|wss?)://([^/":]+)', log.read_text(encoding="utf-8", errors="replace")))


def test_browser_draws_the_viewer_and_asks_no_server(report: tuple[Path, str], tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    page = browse(report[0], tmp_path, f"--log-net-log={log}")
    viewer = page.viewer()
    assert viewer["data-state"] == "ready", viewer
    assert viewer["data-shown"] == keys.MAGNITUDE
    assert float(viewer["data-lit"]) > 0.1  # the share of the canvas that is not black
    assert "data-errors" not in viewer  # uncaught errors, console.error, refused requests
    assert [section["id"] for section in page.of("section")] == SECTIONS
    assert log.stat().st_size > 0
    assert [host for host in requests_of(log) if not host.endswith(OWN_HOSTS)] == []


@pytest.mark.slow
def test_browser_changes_the_map_and_tells_an_error(report: tuple[Path, str], tmp_path: Path) -> None:
    asks = """<script>
      const timer = setInterval(() => {
        if (document.getElementById("viewer").dataset.state !== "ready") return;
        clearInterval(timer);
        console.error("something went wrong");
        fetch("http://127.0.0.1:9/");
        const map = document.getElementById("viewer-map");
        map.value = "chi_total";
        map.dispatchEvent(new Event("change"));
      }, 50);
    </script></body>"""
    path = tmp_path / "changed.html"
    permitted = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", report[1])
    path.write_text(permitted.replace("</body>", asks), encoding="utf-8")
    log = tmp_path / "net.json"
    page = browse(path, tmp_path, f"--log-net-log={log}")
    viewer = page.viewer()
    assert (viewer["data-state"], viewer["data-shown"]) == ("ready", keys.CHI_TOTAL)
    assert "something went wrong" in viewer["data-errors"]
    assert "refused http://127.0.0.1:9" in viewer["data-errors"]
    # without the policy the browser does ask, and the check above sees it
    path.write_text(re.sub(r"<meta http-equiv[^>]*>", "", report[1]).replace("</body>", asks), encoding="utf-8")
    browse(path, tmp_path, f"--log-net-log={log}")
    assert "127.0.0.1" in requests_of(log)


@pytest.mark.slow
def test_browser_without_webgl_says_so(report: tuple[Path, str], tmp_path: Path) -> None:
    page = browse(report[0], tmp_path, "--disable-3d-apis")
    assert page.viewer()["data-state"] == "unavailable"
    assert "This browser has no WebGL 2" in page.text


def test_field_residual_of_a_sphere_vanishes() -> None:
    shape, size_mm, direction = (40, 36, 44), torch.tensor([1.0, 1.2, 0.9]), torch.tensor([0.0, 0.6, 0.8])
    field, inside = sphere_field(
        shape, size_mm, direction, centre_voxel=torch.tensor([20.0, 18, 22]), radius_mm=8.0, chi_ppm=0.5
    )
    field, chi, mask = field[None].float(), 0.5 * inside[None].float(), torch.ones(1, *shape)
    residual = field_residual(field, chi, mask, size_mm, direction)
    wrong = field_residual(field, -chi, mask, size_mm, direction)
    rim = torch.nn.functional.max_pool3d(chi, 5, 1, 2) + torch.nn.functional.max_pool3d(-chi, 5, 1, 2) > 0
    away = ~rim  # on the surface the voxels of the sphere are stairs
    assert residual[away].square().mean() < 0.1**2 * field[away].square().mean()
    assert wrong[away].square().mean() > field[away].square().mean()
    mask[:, :10] = 0
    assert not field_residual(field, chi, mask, size_mm, direction)[:, :10].any()


def test_rate_residual() -> None:
    generator = torch.Generator().manual_seed(0)
    para, dia, extra = torch.rand(3, 1, 5, 6, 4, generator=generator)
    mask = torch.ones(1, 5, 6, 4)
    r2prime = 137.0 * (1.2 * para + 0.8 * dia + extra)
    weights = torch.tensor([1.2, 0.8])
    found = rate_residual(r2prime, para, dia, mask, relaxivity_per_s_ppm=137.0, relaxivity_weights=weights)
    torch.testing.assert_close(found, extra)
    equal = rate_residual(r2prime, para, dia, mask, relaxivity_per_s_ppm=137.0)
    torch.testing.assert_close(equal, extra + 0.2 * (para - dia))
