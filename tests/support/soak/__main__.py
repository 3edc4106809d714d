"""Tokenization and training at once, on a cluster of four nodes with a bucket, whose parts fail at random."""

import json
import logging
import sys

import tyro

from tests.support.soak.bucket import Settings
from tests.support.soak.run import soak

if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it names each request
    result = soak(tyro.cli(Settings, description=__doc__))
    print(json.dumps(result))
    sys.exit(0 if result["passed"] else 1)
