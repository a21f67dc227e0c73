"""The report in a browser: order, filters, links, names that contain code, and no network."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from MaskSAMCore.cohort.case import picture_of
from MaskSAMCore.cohort.record import CaseRecord
from MaskSAMCore.cohort.report.page import EXPECTED_DICE, find_output, write_report
from MaskSAMCore.cohort.shard import Shard
from MaskSAMCore.cohort.table import TABLE_NAME, CaseTable, read_rows
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import write_labelmap, write_volume
from MaskSAMCore.io.files import write_bytes
from MaskSAMCore.labels import Label
from MaskSAMCore.pictures import thumbnail
from MaskSAMCore.volumetry import StructureVolume, structure_volumes
from Testing.helpers.browser import browser, needs_browser

LABELS = (Label(1, "Big $x$ <b>", (0.9, 0.2, 0.1)), Label(2, "Small", (0.1, 0.4, 0.9)))
ATTACK = '<script>window.broken = 1</script>"><img src=x onerror="window.broken=2">'
CASES = 14


def volumes(big: float, small: float) -> tuple[StructureVolume, ...]:
    pairs = zip(LABELS, (big, small), strict=True)
    return tuple(StructureVolume(one.name, 0.9, ml) for one, ml in pairs if ml)


def record(case: str, folder: Path, **values: object) -> CaseRecord:
    values = {"volumes": volumes(10, 2), "seconds": 1.0, **values}
    return CaseRecord(
        case,
        values.pop("status", "done"),
        inputs=(folder / "in" / f"{case}.nii.gz",),
        output=folder / "out" / f"{case}.nii.gz",
        model="small",
        **values,
    )


def records(folder: Path) -> list[CaseRecord]:
    """Return a run with a failure, an outlier, a skipped image and ordinary cases."""
    found = [
        record(f"case_{n}", folder, volumes=volumes(10 + n / 10, 2 + n % 3 / 10), seconds=float(n))
        for n in range(CASES)
    ]
    found[5] = record("case_5", folder, volumes=volumes(30, 0), notes=("a doubt",))
    found[6] = record("case_6", folder, volumes=volumes(2, 2), seconds=99.0)
    found.append(record("broken", folder, status="failed", volumes=(), reason=ATTACK))
    found.append(record("scout", folder, status="skipped", volumes=(), reason="a localizer"))
    return found


def write_files(folder: Path, names: list[str]) -> None:
    """Write an image and a labelmap for each name."""
    labelmap = np.zeros((8, 12, 10), np.uint8)
    labelmap[2:5, 3:9, 2:8] = 1
    for name in names:
        image = folder / "in" / f"{name}.nii.gz"
        image.parent.mkdir(parents=True, exist_ok=True)
        volume = Volume(labelmap.astype(np.float32) * 50, np.diag([2.0, 1, 3, 1]))
        write_volume(volume, image)
        write_labelmap(labelmap, volume, folder / "out" / f"{name}.nii.gz", LABELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with its report; only some cases have files and pictures."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "out").mkdir()
    write_files(folder, ["case_5", "case_6", "case_7"])
    volume = Volume(np.zeros((4, 5, 6), np.float32), np.eye(4))
    picture = thumbnail(volume, np.ones((4, 5, 6), np.uint8), LABELS)
    write_bytes(picture_of(folder / "out" / "case_8.nii.gz"), picture)
    with CaseTable(folder / "out" / TABLE_NAME, [one.name for one in LABELS]) as table:
        for one in records(folder):
            table.add(one)
        write_report(folder / "out" / "report.html", table.rows, folder / "out", LABELS)
    return folder


@pytest.fixture(scope="module")
def opened(folder: Path) -> Iterator[Chrome]:
    """Yield a browser that has opened the report."""
    with browser() as driver:
        driver.get((folder / "out" / "report.html").as_uri())
        yield driver


@pytest.fixture
def page(opened: Chrome) -> Chrome:
    """Return the browser with the report as it was opened."""
    opened.refresh()
    return opened


def shown(page: Chrome) -> list[str]:
    """Return the names of the cases that are shown, in their order."""
    return [
        one.find_element(By.TAG_NAME, "h2").text
        for one in page.find_elements(By.CSS_SELECTOR, "#cases > li:not([hidden])")
    ]


def sort_by(page: Chrome, text: str) -> None:
    Select(page.find_element(By.ID, "sort")).select_by_visible_text(text)


def problems(page: Chrome) -> list[str]:
    """Return the errors and warnings on the console of the browser since the last call."""
    return [entry["message"] for entry in page.get_log("browser")]


def test_files_of_unusual_names_have_links_and_a_picture(tmp_path: Path):
    names = ["a; b", "no\xa0break"]
    if os.name == "posix":
        names.append(os.fsdecode(b"latin-\xe9"))
    (tmp_path / "out").mkdir()
    write_files(tmp_path, ["usual"])
    for name in names:
        for part in ("in", "out"):
            usual = tmp_path / part / "usual.nii.gz"
            usual.with_name(f"{name}.nii.gz").write_bytes(usual.read_bytes())
    with CaseTable(tmp_path / "out" / TABLE_NAME, [one.name for one in LABELS]) as table:
        for name in names:
            table.add(record(name, tmp_path))
    report = tmp_path / "report.html"
    write_report(report, read_rows(tmp_path / "out" / TABLE_NAME), tmp_path / "out", LABELS)
    text = report.read_text(encoding="utf-8")
    for name in names:
        for part in ("in", "out"):
            assert f"./{part}/{quote(os.fsencode(name))}.nii.gz" in text
    assert len(re.findall("data:image/webp;base64,[A-Za-z0-9+/]{99}", text)) == len(names)


@needs_browser
class TestInABrowser:
    def test_failures_come_first_then_the_strongest_outliers(self, page: Chrome):
        names = shown(page)
        assert names[:3] == ["broken", "case_5", "case_6"]
        assert names[-1] == "scout"
        assert len(names) == CASES + 2
        assert problems(page) == []

    def test_names_and_reasons_that_are_code_are_shown_as_text(self, page: Chrome):
        assert page.execute_script("return window.broken === undefined")
        assert page.find_element(By.CSS_SELECTOR, "#case-0 .reason").text == ATTACK
        assert LABELS[0].name in page.find_element(By.CSS_SELECTOR, ".figure").text
        assert problems(page) == []

    def test_cases_are_sorted_by_name_time_and_the_volume_of_a_class(self, page: Chrome):
        sort_by(page, "name")
        assert shown(page)[:4] == ["broken", "case_0", "case_1", "case_2"]
        assert shown(page).index("case_10") > shown(page).index("case_9")
        sort_by(page, "time")
        assert shown(page)[:2] == ["case_6", "case_13"]
        sort_by(page, LABELS[0].name)
        assert shown(page)[:2] == ["case_5", "case_13"]
        page.find_element(By.ID, "reverse").click()
        assert shown(page)[0] == "case_6"
        assert {"broken", "scout"} == set(shown(page)[-2:])
        assert problems(page) == []

    def test_cases_are_filtered_by_kind_and_by_words(self, page: Chrome):
        page.find_element(By.CSS_SELECTOR, "[value=done]").click()
        assert set(shown(page)) == {"broken", "case_5", "case_6", "scout"}
        page.find_element(By.ID, "find").send_keys("DOUBT case")
        assert shown(page) == ["case_5"]
        assert page.find_element(By.ID, "shown").text == "1 shown"
        page.find_element(By.ID, "find").send_keys(" nothing")
        assert shown(page) == []
        assert page.find_element(By.ID, "none").is_displayed()
        assert problems(page) == []

    def test_pictures_are_loaded_and_the_keyboard_goes_through_them(self, page: Chrome):
        button = page.find_element(By.CSS_SELECTOR, ".picture button")
        page.execute_script("arguments[0].focus()", button)
        button.send_keys(Keys.ENTER)
        large = page.find_element(By.CSS_SELECTOR, "dialog img")
        loaded = "return arguments[0].naturalWidth"
        WebDriverWait(page, 30).until(lambda _: page.execute_script(loaded, large) == 576)
        caption = page.find_element(By.ID, "caption")
        assert caption.text == "case_5"
        for key, name in ((Keys.RIGHT, "case_6"), (Keys.LEFT, "case_5"), (Keys.LEFT, "case_5")):
            page.switch_to.active_element.send_keys(key)
            assert caption.text == name
        page.switch_to.active_element.send_keys(Keys.ESCAPE)
        WebDriverWait(page, 30).until(lambda _: not large.is_displayed())
        assert page.switch_to.active_element == button
        assert problems(page) == []

    def test_all_volumes_of_a_case_are_shown_beside_those_of_the_cohort(self, page: Chrome):
        case = page.find_element(By.ID, "case-1")
        case.find_element(By.CSS_SELECTOR, ".volumes summary").click()
        big, small = WebDriverWait(page, 30).until(
            lambda _: case.find_elements(By.CSS_SELECTOR, "tbody tr")
        )
        assert big.text.startswith(LABELS[0].name)
        assert "30.00" in big.text and "outlier" in big.get_attribute("class")
        assert "0.00" in small.text
        assert problems(page) == []

    def test_the_figure_links_to_outliers_even_if_a_filter_hides_them(self, page: Chrome):
        page.find_element(By.CSS_SELECTOR, "[value=outlier]").click()
        assert "case_5" not in shown(page)
        link = "[...document.querySelectorAll('.figure a')].find(a => a.href.baseVal"
        page.execute_script(f"location.hash = {link} === '#case-1').href.baseVal")
        WebDriverWait(page, 30).until(lambda _: "case_5" in shown(page))
        assert problems(page) == []

    def test_links_open_the_files_of_a_case(self, page: Chrome, folder: Path):
        case = page.find_element(By.ID, "case-1")
        links = {a.text: a.get_attribute("href") for a in case.find_elements(By.TAG_NAME, "a")}
        assert links == {
            "image": (folder / "in" / "case_5.nii.gz").as_uri(),
            "labelmap": (folder / "out" / "case_5.nii.gz").as_uri(),
            "folder": (folder / "out").as_uri() + "/",
        }
        assert page.find_elements(By.CSS_SELECTOR, "#case-3 .gone")

    def test_nothing_is_fetched(self, page: Chrome):
        fetched = page.execute_script(
            "return performance.getEntriesByType('resource').map(e => e.name)"
        )
        assert [name for name in fetched if not name.startswith("data:")] == []


def test_cases_with_the_lowest_expected_dice_come_first_where_it_is_known(tmp_path: Path):
    with CaseTable(None, [one.name for one in LABELS]) as table:
        for one in records(tmp_path):
            table.add(one)
    rows = {
        name: {**row, EXPECTED_DICE: {"case_3": "0.61", "case_9": "0.52"}.get(name, "0.9")}
        for name, row in table.rows.items()
    }
    write_report(tmp_path / "report.html", rows, tmp_path, LABELS)
    names = re.findall('data-name="([^"]*)"', (tmp_path / "report.html").read_text("utf-8"))
    assert names[:4] == ["broken", "case_9", "case_3", "case_5"]


@pytest.mark.parametrize("rated", [False, True])
def test_cases_in_which_nothing_was_found_come_after_failures(tmp_path: Path, rated: bool):
    with CaseTable(None, [one.name for one in LABELS]) as table:
        for one in [*records(tmp_path), record("nothing", tmp_path, volumes=())]:
            table.add(one)
    rows = dict(table.rows)
    if rated:
        estimates = {name: "0.1" for name in rows if name != "nothing"}
        rows = {name: {**row, EXPECTED_DICE: estimates.get(name, "")} for name, row in rows.items()}
    write_report(tmp_path / "report.html", rows, tmp_path, LABELS)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert re.findall('data-name="([^"]*)"', page)[:2] == ["broken", "nothing"]


@needs_browser
def test_shares_of_the_intracranial_volume_are_shown_where_they_are_known(tmp_path: Path):
    names = [one.name for one in LABELS]
    found = [(names[0], 0.9, 30.0), (names[1], 0.8, 10.0)]
    known = structure_volumes(found, 1.0, intracranial=names)
    with CaseTable(None, names, intracranial=names) as table:
        table.add(record("whole", tmp_path, volumes=tuple(known)))
        table.add(record("cut", tmp_path, volumes=volumes(30, 0)))
    write_report(tmp_path / "report.html", table.rows, tmp_path, LABELS)
    page = (tmp_path / "report.html").read_text("utf-8")
    # The total of a case leaves out the intracranial volume, which is the sum of its classes.
    assert sorted(re.findall('data-total="([^"]*)"', page)) == ["30.0", "40.0"]
    with browser() as driver:
        driver.get((tmp_path / "report.html").as_uri())
        cells = {}
        for case in driver.find_elements(By.CSS_SELECTOR, ".case"):
            case.find_element(By.CSS_SELECTOR, ".volumes summary").click()
            rows = WebDriverWait(driver, 30).until(
                lambda _, case=case: case.find_elements(By.CSS_SELECTOR, "tbody tr")
            )
            cells[case.get_attribute("data-name")] = [
                [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")][:5]
                for row in rows
            ]
        assert problems(driver) == []
    assert cells["whole"] == [
        [names[0], "30.00", "75.00", "30.00", "0.90"],
        [names[1], "10.00", "25.00", "5.00", "0.80"],
        ["intracranial volume", "40.00", "–", "40.00", "–"],
    ]
    assert cells["cut"] == [
        [names[0], "30.00", "–", "30.00", "0.90"],
        [names[1], "0.00", "–", "5.00", "–"],
    ]


def test_names_cannot_leave_their_place_in_the_page(tmp_path: Path, monkeypatch):
    name = "javascript:alert(1)'<script>&\""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    write_files(Path(), [name])
    with CaseTable(None, ["</script>"]) as table:
        table.add(record(name, Path(), volumes=(StructureVolume("</script>", 0.9, 1.0),)))
        table.add(record(ATTACK, tmp_path, status="failed", volumes=(), reason=ATTACK))
    rows = {key: {**row, "model": "</script><script>x"} for key, row in table.rows.items()}
    write_report(tmp_path / "report.html", rows, tmp_path)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert text.count("<script") == text.count("</script") == 2
    assert "<img src=x" not in text
    links = re.findall('href="([^"]*)"', text)
    assert "./in/javascript%3Aalert%281%29%27%3Cscript%3E%26%22.nii.gz" in links
    assert all(link.startswith(("./", "#")) for link in links)


def test_a_picture_that_is_older_than_the_labelmap_is_drawn_anew(tmp_path: Path):
    (tmp_path / "out").mkdir()
    write_files(tmp_path, ["a"])
    output, picture = (tmp_path / "out" / name for name in ("a.nii.gz", "a_picture.webp"))
    picture.write_bytes(b"a picture of another result")
    code = base64.b64encode(picture.read_bytes()).decode()
    with CaseTable(None, ["Big"]) as table:
        table.add(record("a", tmp_path))

    def shows_the_file(age: int) -> bool:
        written = output.stat().st_mtime_ns
        os.utime(picture, ns=(written - age, written - age))
        write_report(tmp_path / "report.html", table.rows, tmp_path, LABELS, overwrite=True)
        page = (tmp_path / "report.html").read_text("utf-8")
        assert "data:image/webp" in page
        return code in page

    assert shows_the_file(0) and shows_the_file(-(10**9))
    assert not shows_the_file(10**9)
    # Without the image no new picture can be drawn, and an outdated picture is left out.
    (tmp_path / "in" / "a.nii.gz").unlink()
    assert shows_the_file(0)
    os.utime(picture, (0, 0))
    write_report(tmp_path / "report.html", table.rows, tmp_path, LABELS, overwrite=True)
    assert "data:image/webp" not in (tmp_path / "report.html").read_text("utf-8")


def test_a_report_made_elsewhere_shows_no_files_of_that_place(tmp_path: Path, monkeypatch):
    # In the folder "elsewhere", the same relative paths lead to another patient's files.
    for place in ("study", "elsewhere"):
        (tmp_path / place / "out").mkdir(parents=True)
        write_files(tmp_path / place, ["a"])
    table = tmp_path / "study" / "out" / TABLE_NAME
    monkeypatch.chdir(tmp_path / "study")
    with CaseTable(table, ["Big"]) as rows:
        rows.add(record("a", Path()))
    report = table.with_name("report.html")

    def links() -> list[str]:
        monkeypatch.chdir(tmp_path / "elsewhere")
        write_report(report, read_rows(table), table.parent, LABELS, overwrite=True)
        page = report.read_text("utf-8")
        found = [link for link in re.findall('href="([^"#]*)"', page) if link]
        assert ("data:image/webp" in page) == (len(found) == 3)
        return found

    assert links() == ["./../in/a.nii.gz", "./a.nii.gz", "./."]
    # Earlier versions wrote relative paths.
    table.write_text(table.read_text().replace(f"{tmp_path / 'study'}{os.sep}", ""))
    assert links() == ["./a.nii.gz", "./."]
    (tmp_path / "study" / "out" / "a.nii.gz").unlink()
    assert links() == []


@pytest.mark.parametrize("start", ["elsewhere/out", "../out", "/gone/out"])
def test_a_moved_folder_of_results_is_found(start: str, tmp_path: Path):
    moved = tmp_path / "moved"
    (moved / "s1").mkdir(parents=True)
    (moved / "s1" / "a.nii.gz").touch()
    found = find_output(Path(start, "s1", "a.nii.gz"), "s1/a", moved)
    assert found == moved / "s1" / "a.nii.gz"
    assert find_output(Path(start, "s1", "b.nii.gz"), "s1/b", moved) is None
    # A file with the same name outside the site's folder belongs to another patient.
    (moved / "c.nii.gz").touch()
    assert find_output(Path(start, "s2", "c.nii.gz"), "s2/c", moved) is None


def test_labelmaps_in_the_results_come_before_the_paths_in_the_table(tmp_path: Path):
    written, copied = tmp_path / "out" / "a.nii.gz", tmp_path / "copied" / "a.nii.gz"
    for path in (written, copied):
        path.parent.mkdir()
        path.touch()
    assert find_output(written, "a", copied.parent) == copied
    copied.unlink()
    assert find_output(written, "a", copied.parent) == written


def test_bids_outputs_lie_in_folders_that_the_name_of_the_case_lacks(tmp_path: Path):
    path = Path("sub-1/anat/sub-1_space-orig_desc-T1w_dseg.nii.gz")
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    assert find_output("derivatives" / path, "sub-1_T1w", tmp_path) == tmp_path / path


def test_tables_of_shards_make_one_report(tmp_path: Path):
    path = tmp_path / TABLE_NAME
    for number, name in enumerate("ab", 1):
        with CaseTable(path, ["Big"], Shard(number, 2), [name]) as table:
            table.add(record(name, tmp_path))
    write_report(tmp_path / "report.html", read_rows(path), tmp_path)
    names = re.findall('data-name="([^"]*)"', (tmp_path / "report.html").read_text("utf-8"))
    assert names == ["a", "b"]


def test_a_report_of_nothing_is_refused_and_an_existing_file_is_kept(tmp_path: Path):
    with pytest.raises(MaskSAMError, match="no cases to report"):
        write_report(tmp_path / "report.html", {}, tmp_path)
    with CaseTable(None, ()) as table:
        table.add(record("a", tmp_path))
    (tmp_path / "report.html").write_text("precious")
    with pytest.raises(MaskSAMError, match="exists"):
        write_report(tmp_path / "report.html", table.rows, tmp_path)
    assert (tmp_path / "report.html").read_text() == "precious"
