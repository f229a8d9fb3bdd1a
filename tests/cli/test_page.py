"""`--html`: what is in the page, that it needs nothing else, and what a browser makes of it."""

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from models import random_model
from patience import PROCESS
from PIL import Image

import safi_fast
from safi_fast.cli import main as cli
from safi_fast.cli.page import Entry, Page, page, pictures, view
from safi_fast.cli.page.curve import curve
from safi_fast.weights import save_model

RNG = np.random.default_rng(4)
H, W = 32, 40
AWKWARD = "a<b>&\"c'{0}%s.png"
VOID = {"meta", "img", "input"}


class Reader(HTMLParser):
    """Elements as (name, attributes), texts, and tags that are not closed in their order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open, self.wrong = [], "", [], []
        self.feed(text)
        self.close()
        self.wrong += self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


def picture(uri):
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", uri).groups()
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.format.lower() == kind
        return np.asarray(image)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_model(random_model(lipschitz=1.1), path)
    return path


@pytest.fixture
def denoise(tmp_path, monkeypatch, model):
    """Run in an empty folder with a small model; the exit status."""
    monkeypatch.chdir(tmp_path)
    steps = ("--sigma", "25", "--model", str(model), "--max-outer", "2", "--max-inner", "3")
    return lambda *arguments: cli.main(["denoise", *map(str, arguments), *steps])


def save(path, *shape):
    values = (RNG.random(shape or (H, W)) * 255).astype(np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)
    return values


def test_what_a_page_shows(denoise, tmp_path, capsys):
    grey, _ = save(tmp_path / "in" / AWKWARD), save(tmp_path / "in" / "colour.png", H, W, 3)
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    assert denoise("in", "-o", "out", "--html", "pages/r.html") == 1
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == ["r.html"]
    text = (tmp_path / "pages" / "r.html").read_text(encoding="utf-8")
    read = Reader(text)
    assert not read.wrong
    assert read.text.count(f"out/{AWKWARD}") == 2  # in the list, and over its images
    assert "failed: is truncated" in read.text
    assert safi_fast.__version__ in read.text
    links = [a["href"] for a in read.all("a")]
    assert links == [f"#{section['id']}" for section in read.all("section")]
    assert len(set(links)) == 2
    uris = [image["src"] for image in read.all("img")]
    assert len(uris) == 6
    after, before, mask = map(picture, uris[:3])
    np.testing.assert_array_equal(before, grey)
    with Image.open(tmp_path / "out" / AWKWARD) as result:
        np.testing.assert_array_equal(after, np.asarray(result))
    assert mask.shape == (H, W)
    assert picture(uris[3]).shape == (H, W, 3)
    assert len(read.all("polyline")) == 4
    assert all(slider["aria-label"] for slider in read.all("input"))


def test_a_page_asks_for_nothing_else(denoise, tmp_path):
    save(tmp_path / "a.png")
    assert denoise("a.png", "-o", "b.png", "--html", "r.html") == 0
    read = Reader((tmp_path / "r.html").read_text(encoding="utf-8"))
    addresses = [
        value for _, attributes in read.elements for key, value in attributes.items() if key in ("src", "href")
    ]
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not read.all("link")
    assert "default-src 'none'" in read.all("meta")[2]["content"]


def test_what_is_skipped_keeps_what_an_earlier_page_shows(denoise, tmp_path):
    save(tmp_path / "in" / "a.png")
    assert denoise("in", "-o", "out", "--html", "r.html") == 0
    first = Reader((tmp_path / "r.html").read_text(encoding="utf-8"))
    save(tmp_path / "in" / "b.png")
    assert denoise("in", "-o", "out", "--html", "r.html") == 0
    second = Reader((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert [image["src"] for image in second.all("img")][:3] == [image["src"] for image in first.all("img")]
    assert len(second.all("section")) == 2
    assert denoise("in", "-o", "out", "--html", "other.html") == 0  # where there is none
    third = Reader((tmp_path / "other.html").read_text(encoding="utf-8"))
    assert not third.all("section")
    assert third.text.count("skipped: ") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--html", "r.png"), "--html r.png: unsupported extension '.png'; a page is written as .html"),
        (("--html", "out/r.HTML"), None),
        (("--html", "a.html"), "a.html is an input and would be overwritten"),
    ],
)
def test_names(denoise, tmp_path, capsys, arguments, message):
    save(tmp_path / "a.png")
    (tmp_path / "a.html").symlink_to(tmp_path / "a.png")
    assert denoise("a.png", "-o", "out", *arguments) == (2 if message else 0)
    assert (message or "") in capsys.readouterr().err


def test_a_page_that_meets_an_output(tmp_path, monkeypatch, model, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("k.npy", np.zeros((H, W)))
    fixed = ("-o", "x", "--strength", "1", "--model", str(model))
    words = ("--report", "same.html", "--html", "same.html")
    assert cli.main(["reconstruct", "mri", "k.npy", *fixed, *words]) == 2
    assert "--report and --html would both be written to same.html" in capsys.readouterr().err


def test_reconstruct(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    image = RNG.random((2, H, W))
    kspace = np.fft.fftshift(np.fft.fft2(image, norm="ortho"), axes=(-2, -1)).astype(np.complex64)
    np.save("k.npy", kspace * (np.arange(W) % 2 == 0))
    fixed = (
        "--strength",
        "1e-3",
        "--model",
        str(model),
        "--max-outer",
        "2",
        "--max-iter",
        "3",
        "--no-order-check",
        "--layout",
        "shw",
    )
    assert cli.main(["reconstruct", "mri", "k.npy", "-o", "x", *fixed, "--html", "r.html"]) == 0
    read = Reader((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert not read.wrong
    assert len(read.all("section")) == 2
    assert "x/k_001.npy" in read.text
    assert "0.001" in read.text


def test_large_images_are_shown_smaller_and_it_is_said(monkeypatch):
    monkeypatch.setattr(pictures, "LARGEST_SIDE", 20)
    monkeypatch.setattr(pictures, "LARGEST_PNG", 100)
    image = np.ones((H, W))
    image[:2, :2] = 0
    seen = view(image, image, np.zeros((3, H, W), np.float32))
    assert picture(seen.after).shape == (H // 2, W // 2)
    assert picture(seen.after)[0, 0] < 30
    assert seen.notes == (
        "shown at 1/2 of its size, each pixel the mean of 2 x 2",
        "shown as JPEG of quality 90",
    )
    thin = view(np.ones((1, W)), np.ones((1, W)))
    assert picture(thin.after).shape == (1, W // 2)
    assert picture(thin.after).min() == 255


def test_a_page_that_is_full_lists_figures_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_BYTES", 1000)
    made = Page(tmp_path / "r.html")
    seen = view(RNG.random((H, W)), RNG.random((H, W)))
    for name in ("a", "b"):
        made.add(name, Entry("", seen, [(1.0, 1.0)], "gap", {"seconds": "1"}))
    made.write("denoise", {}, [{"input": n, "output": n, "status": "denoised"} for n in ("a", "b")])
    read = Reader((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert not read.all("img")
    assert read.text.count("no pictures") == 2


def test_curves():
    assert curve([], [], "gap") == curve([np.nan], [np.inf], "gap") == curve([0.0], [0.0], "gap") == ""
    one = Reader(curve([1e-3], [np.inf], "<gap>"))
    assert not one.wrong
    assert len(one.all("polyline")) == 1
    many = Reader(curve(np.geomspace(1, 1e-12, 30), np.geomspace(10, 1e-3, 30), "gap"))
    points = [tuple(map(float, point.split(","))) for point in many.all("polyline")[0]["points"].split()]
    assert len(points) == 30
    np.testing.assert_allclose(np.diff([down for _, down in points], 2), 0, atol=0.3)  # a straight line


# ------------------------------------------------------------------------------------------------------------ browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MOVE = """<script>
const range = document.querySelector("input"), box = range.parentElement;
range.value = 20;
range.dispatchEvent(new Event("input"));
const before = document.querySelector(".before"), after = document.querySelector("img");
document.title = JSON.stringify({
  at: getComputedStyle(box).getPropertyValue("--at"), clip: getComputedStyle(before).clipPath,
  said: range.getAttribute("aria-valuetext"), focus: range.tabIndex, wide: document.documentElement.scrollWidth,
  natural: [after.naturalWidth, after.naturalHeight], same: before.clientWidth === after.clientWidth});
</script></body>"""


def browser():
    """The command of a browser that has no window."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed: {', '.join(BROWSERS)}")
    return SimpleNamespace(command=[found, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])


def test_the_slider_in_a_browser(denoise, tmp_path):
    """The script runs under the policy of the page, the images load, nothing is wider than a telephone."""
    command = browser().command
    save(tmp_path / AWKWARD)
    assert denoise(AWKWARD, "-o", "out", "--html", "r.html") == 0
    path = tmp_path / "r.html"
    path.write_text(path.read_text(encoding="utf-8").replace("</body>", MOVE), encoding="utf-8")
    options = [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,800", "--dump-dom"]
    done = subprocess.run(
        [*command, *options, path.as_uri()], capture_output=True, text=True, check=True, timeout=PROCESS
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)[1]
    assert '"at":"20%"' in title
    assert '"clip":"inset(0px 80% 0px 0px)"' in title
    assert '"said":"20 % before"' in title
    assert '"focus":0' in title
    assert f'"natural":[{W},{H}],"same":true' in title
    assert int(re.search(r'"wide":(\d+)', title)[1]) <= 500
