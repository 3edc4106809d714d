"""Runs a real Prometheus during a test."""

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.support.ports import free_port

CONFIG = """
global: {{scrape_interval: 2s}}
scrape_configs:
  - job_name: ray
    static_configs: [{{targets: ['127.0.0.1:{port}']}}]
"""


class Prometheus:
    """Scrapes a port of this machine every two seconds, until `stop`."""

    def __init__(self, folder: Path, scraped_port: int) -> None:
        program = shutil.which("prometheus")
        assert program, "the Debian package prometheus is missing: apt-get install prometheus"
        folder.mkdir(parents=True)
        (folder / "prometheus.yml").write_text(CONFIG.format(port=scraped_port))
        self._began, self._url = time.time(), f"http://127.0.0.1:{free_port()}"
        words = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        words.append(f"--web.listen-address={self._url.removeprefix('http://')}")
        self._process = subprocess.Popen([program, *words], stderr=(folder / "log").open("w"))

    def values(self, query: str) -> list[float]:
        """Returns all values of a query since the start, one per second. Raises if the expression is invalid."""
        times = {"start": self._began, "end": time.time(), "step": 1}
        series = self._ask("query_range", query=query, **times)["result"]
        return [float(value) for each in series for _, value in each["values"]]

    def names(self, prefix: str) -> list[str]:
        """Returns the names of the metrics that it has seen."""
        return [name for name in self._ask("label/__name__/values") if name.startswith(prefix)]

    def stop(self) -> None:
        """Ends it; a second time, nothing happens. Each scrape costs the scraped cluster a tenth of a second of CPU."""
        self._process.kill()
        self._process.wait(timeout=30)

    def _ask(self, what: str, **parameters: object) -> Any:
        with urlopen(f"{self._url}/api/v1/{what}?{urlencode(parameters)}", timeout=30) as answer:
            return json.load(answer)["data"]
