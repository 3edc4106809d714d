"""Tokenization and training at once, on a cluster of four nodes with S3, whose parts fail at random. See `Settings`."""

import json
import logging
import sys

import tyro

from tests.support.soak.run import Settings, soak

if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it names each request
    result = soak(tyro.cli(Settings, description=__doc__))
    print(json.dumps(result))
    sys.exit(0 if result["passed"] else 1)
