"""Small models and corpora that the tests share."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from pipeline.config.model import ModelOptions
from pipeline.data.sequences import SequenceBuilder
from pipeline.model.mars import MarsForCausalLM
from tests.support.bucket_servers import BucketServers
from tests.support.checkout import CHECKOUT
from tests.support.fake_cluster import FakeCluster
from tests.support.faulty_server import FaultyServer, ServerOf
from tests.support.s3 import FaultyS3
from tests.support.small_models import CODEBOOK, TEXT_VOCAB, builder_of
from tokenization.patience import OUTAGE_VARIABLE

LONGEST_FIRST = (
    "tests/end_to_end",
    "tests/pipeline/training",
    "tests/pipeline/ledger",
    "tests/pipeline/checkpoints",
    "tests/tokenization/files",
    "tests/pipeline/model",
    "tests/pipeline/generation",
    "tests/pipeline/data",
)
"""Where the tests run on several processes, these are begun first, so that all processes end at about the same time."""


ONE_PROCESS = "tests/end_to_end/"
"""Where the tests run on several processes, one of them runs these: they wait for the programs that they start, while
the others compute."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return ONE_PROCESS if nodeid.startswith(ONE_PROCESS) else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the tests; those of a file stay together, since they share what is expensive to set up."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    return next((n for n, start in enumerate(LONGEST_FIRST) if item.nodeid.startswith(start)), len(LONGEST_FIRST))


@pytest.fixture(autouse=True, scope="session")
def own_environment() -> Iterator[None]:
    """No network, one thread, and a folder for Ray where no job outside finds these tests' clusters. It is short, since
    Ray's sockets lie in it."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    os.environ |= {"HF_HUB_OFFLINE": "1", "RAY_TMPDIR": folder, "OMP_NUM_THREADS": "1"}
    os.environ |= {"RAY_prestart_worker_first_driver": "0"}  # else Ray starts a worker for each CPU, used or not
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process compiles the project anew
    torch.set_num_threads(1)
    yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=[f"{heads} heads, {tied}" for heads in ("grouped", "plain") for tied in ("tied", "untied")])
def base(request: pytest.FixtureRequest) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    grouped, tied = "grouped" in request.param, "untied" not in request.param
    config = Qwen2Config(
        vocab_size=TEXT_VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2 if grouped else 4,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(params=[False, True], ids=["o_proj each", "o_proj shared"])
def mars(base: Qwen2ForCausalLM, request: pytest.FixtureRequest) -> MarsForCausalLM:
    """A model whose visual side differs from the text side, as after training."""
    options = ModelOptions(shared_output_projection=request.param, picture_position_std=0.05)
    model = MarsForCausalLM.from_language_expert(base, CODEBOOK, options)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "visual" in name:
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.eval()
    return model


@pytest.fixture
def builder(mars: MarsForCausalLM) -> SequenceBuilder:
    return builder_of(mars)


@pytest.fixture(scope="session")
def bucket_servers() -> Iterator[BucketServers]:
    servers = BucketServers()
    yield servers
    servers.stop()


@pytest.fixture
def server_of(bucket_servers: BucketServers, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerOf]:
    """Starts the server of a scheme, with an empty bucket. This process's clients find it by themselves."""
    started: list[FaultyServer] = []

    def start(scheme: str) -> FaultyServer:
        started.append(server := bucket_servers.start(scheme))
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(OUTAGE_VARIABLE, "30")  # a thread that still reads ahead ends soon after the server
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def s3(server_of: ServerOf) -> FaultyS3:
    server = server_of("s3")
    assert isinstance(server, FaultyS3)
    return server


@pytest.fixture(scope="session")
def aws_on_fake_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCluster]:
    """cluster/aws_a100.yaml with nodes that are raylets of this machine; they go after five idle seconds."""
    cluster = FakeCluster(CHECKOUT / "cluster" / "aws_a100.yaml", tmp_path_factory.mktemp("aws"))
    yield cluster
    cluster.stop()
