"""The report's page: it stands alone, says what the metrics say, and survives what people feed it."""

import base64
import re
from html.parser import HTMLParser

import cv2
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from hilserl.classifier.decision import Decision
from hilserl.classifier.metrics import Scored
from hilserl.classifier.metrics_summary import summarise
from hilserl.classifier.report import Report, report_html
from hilserl.classifier.report_parts import percent, short_names
from hilserl.classifier.report_sheets import PictureError, data_uri

VOID = {"meta", "img", "br", "link", "hr", "input"}
DECISION = Decision(0.72, 3, 10)
RATE = 10.0
NASTY = """<script>alert("1")</script> & 'x'"""


class Page(HTMLParser):
    """Checks nesting; collects tables, named numbers, pictures and everything that could be fetched."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.numbers, self.tables, self.text = [], [], {}, {}, []
        self.pictures, self.ids, self.fetched = [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.fetched += [given[name] for name in ("src", "href", "data", "srcset", "action") if name in given]
        if tag == "img":
            self.pictures.append(given)
        if tag not in VOID:
            self.open.append((tag, given))
        if tag == "table":
            self.tables[given["id"]] = []
            self.rows = self.tables[given["id"]]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)
        for tag, given in self.open:
            if "data-metric" in given:
                self.numbers[given["data-metric"]] = data
            if tag in ("td", "th"):
                self.rows[-1][-1] += data

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def episode(rng, index, success, right=True, facts=None, source="/home/someone/morning", frames=40):
    """A success from frame 25 on, or none; unless `right`, the probability says the opposite there."""
    late = np.arange(frames) >= 25
    said = np.where(late & (success == right), 0.97, 0.02) + 0.02 * rng.standard_normal(frames)
    return Scored(
        source,
        str(index),
        facts or {},
        late & success,
        np.clip(said, 0, 1).astype(np.float32),
        "success" if success else "failure",
        "operator",
    )


@pytest.fixture(scope="module")
def summary():
    rng = np.random.default_rng(0)
    facts = [{"scenario": ("lift", "pushed")[i % 2], "cube_x_m": 0.2 + 0.004 * i} for i in range(24)]
    episodes = [episode(rng, i, i % 2 == 0, i not in (3, 4, 6), facts[i]) for i in range(20)]
    episodes += [episode(rng, i, i % 2 == 0, True, facts[i], "/home/someone/evening") for i in range(20, 24)]
    return summarise(episodes, DECISION, RATE)


def picture_of(source, name, frame):
    seed = [len(source), *name.encode(), frame]
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)


def pictures(source, name, frames):
    return np.stack([picture_of(source, name, frame) for frame in frames])


LOSSES = [[(1, 0.7, 0.6), (2, 0.4, 0.3), (3, 0.2, 0.35)], [(1, 0.6, 0.7), (2, 0.5, 0.5), (3, 0.1, 0.6)]]


def report(summary, **change):
    given = {
        "name": "lift",
        "summary": summary,
        "false_success_rate": 0.05,
        "split": "2 folds by episode",
        "losses": LOSSES,
        "pictures": pictures,
        "settings": {"lr": 3e-4},
        "left_out": {"morning 99": "not labelled"},
    }
    return report_html(Report(**given | change))


@pytest.fixture(scope="module")
def page(summary):
    return Page(report(summary))


def plain(text):
    return text.replace("\u00a0", " ").replace("&nbsp;", " ")


def test_the_page_stands_alone(summary, page):
    html = report(summary)
    assert html.startswith("<!DOCTYPE html>") and page.tags.count("html") == 1
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert page.fetched and all(one.startswith("data:image/png;base64,") for one in page.fetched)
    outside = re.sub(r'src="data:[^"]*"', "", html)
    assert "://" not in outside and "@import" not in outside and "url(" not in outside
    assert "/home/someone" not in html  # a page that is shown around does not tell where it was made
    assert len(set(page.ids)) == len(page.ids)


def test_the_headline_says_what_was_measured(summary, page):
    told, numbers = summary.to_json(), page.numbers
    for name in ("episode_split_accuracy", "accuracy_low95", "accuracy_high95"):
        assert plain(numbers[name]) == f"{100 * told[name]:.1f} %"
    called, false = told["called_rate"], told["false_success_rate"]
    assert numbers["called_rate"] == f"{called['count']} of {called['total']}" == "10 of 12"
    assert numbers["false_success_rate"] == f"{false['count']} of {false['total']}" == "1 of 12"
    assert numbers["false_successes_per_hour"] == f"{told['false_successes_per_hour']:.1f}"
    assert numbers["false_successes"] == str(told["false_successes"])
    assert numbers["threshold"] == "0.72"
    assert (numbers["hold_frames"], numbers["min_frames"]) == ("3", "10")
    assert numbers["median_delay_s"] == f"{told['median_delay_s']:.1f} s"
    low, high = (100 * called[end] for end in ("low", "high"))
    assert f"interval {low:.1f} % to {high:.1f} %" in plain(page.words)


def test_the_tables_count_what_is_there(summary, page):
    episodes = summary.episodes
    rows = {row[0]: row for row in page.tables["data"][1:]}
    for name, chosen in (
        ("morning", episodes[:20]),
        ("evening", episodes[20:]),
        ("all", episodes),
    ):
        frames, success = sum(one.frames for one in chosen), sum(int(one.success.sum()) for one in chosen)
        with_success = sum(bool(one.success.any()) for one in chosen)
        expected = [f"operator {len(chosen)}", *map(str, (len(chosen), with_success, frames, success))]
        assert rows[name][1:6] == expected
        assert plain(rows[name][6]) == f"{100 * success / frames:.1f} %"
    words = [call.word for call in summary.calls]
    has = [bool(one.success.any()) for one in episodes]

    def count(word, success):
        return str(sum(w == word and h == success for w, h in zip(words, has, strict=True)))

    assert page.tables["confusion-episodes"][1][1:] == [
        count(word, True) for word in ("called", "false success", "missed")
    ]
    assert page.tables["confusion-episodes"][2][2:] == [
        count(word, False) for word in ("false success", "rightly not called")
    ]
    said = np.concatenate([one.probability.astype(np.float64) >= 0.72 for one in episodes])
    true = np.concatenate([one.success for one in episodes])
    assert page.tables["confusion-frames"][1][1:] == [str((true & said).sum()), str((true & ~said).sum())]
    assert page.tables["confusion-frames"][2][1:] == [str((~true & said).sum()), str((~true & ~said).sum())]
    assert page.tables["left-out"][1:] == [["morning 99", "not labelled"]]
    assert page.tables["settings"][1:] == [["lr", "0.0003"]]


def test_coverage_is_shown_cell_by_cell(summary, page):
    rows = page.tables["coverage"][1:]
    assert len(rows) == len(summary.coverage.cells)
    for row, cell in zip(rows, summary.coverage.cells, strict=True):
        assert row[:2] == [cell.fact, cell.value + "".join(cell.warnings)]
        counts = (cell.episodes, cell.success_episodes, cell.frames, cell.success_frames)
        assert row[2:6] == [str(one) for one in counts]
        assert plain(row[6]) == plain(percent(cell.accuracy.value))
        assert row[7] == f"{cell.correct.count}/{cell.correct.total}"


@hypothesis.given(
    st.sets(st.text("ab/", min_size=1, max_size=9).map(lambda text: text.rstrip("/")), max_size=6)
)
def test_sources_are_named_by_their_last_folders_as_far_as_needed(sources):
    names = short_names(sources)
    assert set(names) == sources and len(set(names.values())) == len(sources)
    for whole, name in names.items():
        assert whole == name or whole.endswith("/" + name)
        shorter = "/" + name.partition("/")[2]
        if whole.endswith(shorter) and "/" in name:  # another source ends so, too
            assert any(("/" + other).endswith(shorter) for other in sources - {whole})


def test_every_episode_has_its_line_with_times_and_the_wrong_come_first(summary, page):
    rows = page.tables["episodes-table"][1:]
    found = {row[0].split()[0]: row for row in rows}
    assert len(rows) == len(found) == len(summary.episodes)

    def time(frame):
        return "\u2013" if frame is None else f"{frame / RATE:.1f} s {frame}"

    for one, call in zip(summary.episodes, summary.calls, strict=True):
        row = found[one.episode]
        assert row[1] == call.word
        assert row[2:5] == [time(call.true_frame), time(call.frame), time(call.delay)]
    wrong = [row[1] in ("false success", "missed") for row in rows]
    assert wrong == sorted(wrong, reverse=True) and sum(wrong) == 3


def test_the_sheets_show_the_pictures_of_the_frames_they_name(summary, page):
    assert len(page.pictures) == 24
    for given in page.pictures:
        name, frame = re.fullmatch(r"episode (\S+), frame (\d+)", given["alt"]).groups()
        source = next(one.source for one in summary.episodes if one.episode == name)
        assert given["src"] == data_uri(picture_of(source, name, int(frame)))


def test_a_picture_comes_back_bit_for_bit():
    picture = picture_of("a", "b", 3)
    png = base64.b64decode(data_uri(picture).partition(",")[2])
    back = cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.array_equal(back, picture)


def test_pictures_are_asked_for_once_per_episode(summary):
    asked = []

    def counting(source, name, frames):
        asked.append((source, name, tuple(frames)))
        return pictures(source, name, frames)

    report(summary, pictures=counting)
    half = {(s, n, all(f >= 25 for f in frames)) for s, n, frames in asked}
    assert len(half) == len(asked)  # once for each sheet an episode is on


@pytest.mark.parametrize(
    "broken",
    [
        lambda s, n, frames: np.zeros((len(frames) + 1, 16, 16, 3), np.uint8),
        lambda s, n, frames: np.zeros((len(frames), 16, 16, 3), np.float32),
        lambda s, n, frames: np.zeros((len(frames), 16, 16), np.uint8),
    ],
)
def test_other_pictures_than_asked_for_are_refused(summary, broken):
    with pytest.raises(PictureError, match=r"pictures of frames \[.*\] of episode \d+ of /home/someone"):
        report(summary, pictures=broken)


def test_text_is_never_markup():
    rng = np.random.default_rng(1)
    episodes = [
        episode(rng, NASTY + str(i), i % 2 == 0, i > 1, {"scenario": NASTY, NASTY: NASTY}, NASTY)
        for i in range(4)
    ]
    episodes[0] = Scored(NASTY + "2", NASTY, {}, episodes[0].success, episodes[0].probability, NASTY, NASTY)
    html = report(
        summarise(episodes, DECISION, RATE),
        name=NASTY,
        split=NASTY,
        settings={NASTY: NASTY},
        left_out={NASTY: NASTY},
    )
    page = Page(html)
    assert "script" not in page.tags and page.words.count(" ".join(NASTY.split())) > 10


def one_sided(success, count=3):
    rng = np.random.default_rng(2)
    return [episode(rng, i, success) for i in range(count)]


@pytest.mark.parametrize(
    ("episodes", "says"),
    [
        (one_sided(True), "no held-out episode without a success"),
        (one_sided(False), "no held-out episode with a success"),
        (one_sided(True, 1), "no held-out episode without a success"),
        ([Scored("s", "0", {}, np.zeros(1, np.bool_), np.zeros(1, np.float32), "")], "not known"),
        ([Scored("s", "0", {"x_m": np.nan}, np.ones(1, np.bool_), np.ones(1, np.float32), "")], "not told"),
        (one_sided(True) + [episode(np.random.default_rng(3), "f", False)], "4 episodes say too little"),
    ],
)
@pytest.mark.parametrize("losses", [[], [[]], [[(1, np.nan, np.nan)]], [[(1, 0.5, 0.5)]], [[(1, 0.0, 0.0)]]])
def test_little_or_one_sided_data_is_reported_honestly(episodes, says, losses):
    page = Page(report(summarise(episodes, DECISION, RATE), losses=losses, left_out={}))
    assert says in page.words
    assert "Ready" not in page.words
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"data:image\S+", "", " ".join(page.text)))


def test_no_coordinate_is_missing(summary):
    losses = [[(1, 5.0, 4.0), (2, np.nan, 0.2), (3, 0.1, np.inf)], []]
    html = report(summary, losses=losses)
    assert not re.search(r'(points|cx|cy|[xy][12]?|width|height)="[^"]*(nan|inf)', html)


def test_the_verdict_follows_the_numbers():
    rng = np.random.default_rng(4)

    def verdict(wrong, allowed=0.05):
        episodes = [episode(rng, i, i % 2 == 0, i not in wrong) for i in range(40)]
        return Page(report(summarise(episodes, DECISION, RATE), false_success_rate=allowed)).words

    assert "Ready for a live trial" in verdict([])
    assert "Not ready" in verdict([1, 3, 5])  # 3 false successes in 20 failed episodes
    assert "15.0 %" in plain(verdict([1, 3, 5]))
    assert "Not ready" not in verdict([1], 0.2)
    missed = verdict([0, 2, 4, 6, 8])
    assert "only 15 of 20 successes were called" in missed.lower() and "5 episodes (0, 2, 4, 6, 8)" in missed


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100.0 %"), (0.99999, "&gt;99.9 %"), (0.00001, "&lt;0.1 %"), (0.0, "0.0 %"), (0.5, "50.0 %")],
)
def test_almost_is_not_all(share, text):
    assert plain(percent(share)) == text
