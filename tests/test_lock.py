"""The lock names what was tested: packages are the same in `make install`, in these tests, and in the image."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.checkout import CHECKOUT

LOCK = CHECKOUT / "cluster" / "requirements.lock"
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
TESTED = ("demo", "dev", "serve")
"""Extras that `make install` installs."""
FOR_THE_IMAGE = ("demo", "trackers", "gcp")


def locked() -> dict[str, str]:
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", LOCK.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def wanted(*extras: str) -> dict[str, Requirement]:
    """The packages that the project needs with these extras, and their requirements, as installed here."""
    found: dict[str, Requirement] = {}
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    left = [(Requirement(line), "") for line in lines]
    seen = set()
    while left:
        requirement, extra = left.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found.setdefault(name, requirement)
        for each in ("", *requirement.extras):
            if (name, each) in seen:
                continue
            seen.add((name, each))
            try:
                left += [(Requirement(line), each) for line in distribution(name).requires or ()]
            except PackageNotFoundError:
                continue  # the next test says so
    return found


def test_the_lock_has_every_package_of_every_extra() -> None:
    pins = locked()
    missing = {name for name in wanted(*PROJECT["optional-dependencies"]) if name not in pins}
    assert not missing, f"{sorted(missing)}: run `make lock`"


def test_the_lock_suits_pyproject() -> None:
    pins = locked()
    for extra in ("", *PROJECT["optional-dependencies"]):
        lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
        for requirement in map(Requirement, lines):
            pin = pins[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(pin), f"{requirement}, the lock has {pin}: run `make lock`"


def test_what_is_tested_here_is_what_the_lock_names() -> None:
    pins = locked()
    for name in wanted(*TESTED):
        here = distribution(name).version.split("+")[0]  # a build for CPUs is the same version
        assert here == pins[name], (
            f"{name} {here} is installed, the lock has {pins[name]}: run `make install`, or `make lock`"
        )


def test_install_and_image_take_the_locks_versions() -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    for line in makefile.splitlines():
        if "pip install" in line and "--upgrade pip" not in line:
            assert "--constraint $(LOCK)" in line, line
    dockerfile = (CHECKOUT / "cluster" / "Dockerfile").read_text()
    installs = re.findall(r"^RUN pip install .*$", dockerfile, re.MULTILINE)
    assert len(installs) == 2 and all("--constraint cluster/requirements.lock" in line for line in installs)
    assert f".[{','.join(FOR_THE_IMAGE)}]" in installs[-1]


def test_the_image_has_what_rays_launcher_needs_in_a_container() -> None:
    dockerfile = (CHECKOUT / "cluster" / "Dockerfile").read_text()
    assert {"rsync", "openssh-client", "procps"} <= set(dockerfile.split())
    assert "NVIDIA_VISIBLE_DEVICES=all" in dockerfile
    assert "google-api-python-client" in str(PROJECT["optional-dependencies"]["gcp"])
