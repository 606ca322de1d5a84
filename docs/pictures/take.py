"""Takes the pictures of the README, and those to look at before a release, from the demo: `make pictures`.

It starts `iom up` on the home that the demo filled and drives a Chromium of this machine; nothing is downloaded.
README's pictures go beside this file, the others to `pictures/` in the home.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from iom_platform.settings import load_settings

HERE = Path(__file__).parent
WIDTHS = {"desktop": 1280, "phone": 390}
WIDE = 1600  # the asset graph shows its last group only there
IN_README = {("report", "desktop"): 1150, ("report", "phone"): 1500, ("asset_graph", "desktop"): 600}  # height


def _links(process: "subprocess.Popen[str]") -> dict[str, str]:
    assert process.stdout is not None
    found = {}
    for line in process.stdout:
        if match := re.match(r"^([a-z ]+): +(http://\S+)$", line.strip()):
            found[match[1]] = match[2]
        if "Ctrl-C" in line:
            return found
    sys.exit("`iom up` ended before it was up; run it alone to see why")


def _comparison(runs_page: str) -> str:
    """MLflow's page that compares the runs of the experiment whose page is given."""
    base, _, rest = runs_page.partition("/#/experiments/")
    experiment = rest.partition("/")[0]
    asked = urllib.request.Request(
        f"{base}/api/2.0/mlflow/runs/search", json.dumps({"experiment_ids": [experiment], "max_results": 10}).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(asked, timeout=60) as answer:
        runs = [run["info"]["run_id"] for run in json.load(answer)["runs"]]
    return f"{base}/#/compare-runs?runs={json.dumps(runs, separators=(',', ':'))}&experiments=[%22{experiment}%22]".replace(
        '"', "%22"
    )


def _browser(width: int, profile: str) -> webdriver.Chrome:
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not program or not driver:
        sys.exit("no Chromium with its driver is here; install the packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    browser = webdriver.Chrome(service=Service(driver), options=options)
    browser.set_window_size(width, 900)
    return browser


def _take(browser: webdriver.Chrome, url: str, out: Path, width: int, height: int) -> None:
    # a window of Chromium is never narrower than 500 pixels; the page's view can be
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    )  # fmt: skip
    browser.get(url)
    time.sleep(1 if url.startswith("file:") else 20)  # the applications load their data after the page
    browser.save_screenshot(str(out))
    print(out)


def main() -> None:
    settings = load_settings()
    reports = sorted((settings.home / "reports").glob("*.html"))
    if not reports:
        sys.exit("there is no report yet; run `make demo` first")
    others = settings.home / "pictures"
    others.mkdir(exist_ok=True)
    command = [str(Path(sys.executable).with_name("iom")), "up"]
    services = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        links = _links(services)
        pages = {
            "report": reports[-1].resolve().as_uri(),
            "asset_graph": links["asset graph"],
            "student_risk": links["student risk"],
            "model_runs": _comparison(links["model runs"]),
        }
        for device, usual in WIDTHS.items():
            with tempfile.TemporaryDirectory() as profile:
                browser = _browser(usual, profile)
                for name, url in pages.items():
                    height = IN_README.get((name, device))
                    width = WIDE if (name, device) == ("asset_graph", "desktop") else usual
                    _take(browser, url, (HERE if height else others) / f"{name}_{device}.png", width, height or 900)
                browser.quit()
    finally:
        os.killpg(services.pid, signal.SIGINT)
        services.wait(timeout=120)


if __name__ == "__main__":
    main()
