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
FOR_THE_IMAGE = ("demo", "serve", "trackers", "gcp", "azure")
CUDA_LIBRARIES = (
    "cublas",
    "cuda-cupti",
    "cuda-nvrtc",
    "cuda-runtime",
    "cudnn-cu13",
    "cufft",
    "cufile",
    "curand",
    "cusolver",
    "cusparse",
    "cusparselt-cu13",
    "nccl-cu13",
    "nvjitlink",
    "nvshmem-cu13",
)
"""What torch's CUDA build names as needed: the packages `nvidia-NAME` that bring it."""


def locked() -> dict[str, str]:
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+) \\$", LOCK.read_text(), re.MULTILINE)
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


def test_every_locked_version_has_hashes() -> None:
    """The image refuses a file that differs only if all names in the lock have the hashes of their files."""
    entries = re.split(r"^(?=[A-Za-z0-9._-]+==)", LOCK.read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked()) > 150
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


def test_install_and_image_take_the_locks_versions() -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    for line in makefile.splitlines():
        other_ray = "$(RAY_ENVIRONMENT)" in line  # on purpose; the rest comes from the lock's environment
        if "pip install" in line and "--upgrade pip" not in line and not other_ray:
            assert "--constraint $(VERSIONS)" in line, line
    dockerfile = (CHECKOUT / "cluster" / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install .*?(?=&&|$)", dockerfile, re.MULTILINE)
    with_hashes = ("--require-hashes", "--constraint cluster/requirements.lock")
    assert len(installs) == 3 and all(any(flag in line for flag in with_hashes) for line in installs), installs
    assert f".[{','.join(FOR_THE_IMAGE)}]" in installs[-1]


def test_the_lock_brings_what_a_gpu_needs_beside_its_driver() -> None:
    assert {"torch", "triton", *(f"nvidia-{name}" for name in CUDA_LIBRARIES)} <= set(locked())
    assert "build-essential" in (CHECKOUT / "cluster" / "Dockerfile").read_text(), "torch.compile needs a C compiler"


def test_the_base_image_is_pinned_and_nodes_do_not_run_as_root() -> None:
    lines = (CHECKOUT / "cluster" / "Dockerfile").read_text().splitlines()
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", line) for line in lines if line.startswith("FROM "))
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000"]


def test_every_locked_package_has_a_licence_in_the_list() -> None:
    page = (CHECKOUT / "docs" / "dependencies.md").read_text()
    rows = page[page.index("| licence | packages |") :].split("\n\n")[0].splitlines()[2:]
    listed = [name for row in rows for name in row.split(" | ")[1].rstrip(" |").split(", ")]
    assert sorted(listed) == sorted(locked()), "add or remove it in docs/dependencies.md"


def test_the_image_has_what_rays_launcher_needs_in_a_container() -> None:
    dockerfile = (CHECKOUT / "cluster" / "Dockerfile").read_text()
    assert {"rsync", "openssh-client", "procps"} <= set(dockerfile.split())
    assert "NVIDIA_VISIBLE_DEVICES=all" in dockerfile
    assert "google-api-python-client" in str(PROJECT["optional-dependencies"]["gcp"])
