"""Ray's fake provider as a market that runs dry: it starts no more nodes of a type than are offered."""

import json
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE


class MarketProvider(FakeMultiNodeProvider):
    """Reads the offered nodes by type from the file `provider.offers`; other types are unlimited."""

    def create_node_with_resources_and_labels(
        self, node_config: dict, tags: dict[str, str], count: int, resources: dict, labels: dict
    ) -> Any:
        node_type = tags[TAG_RAY_USER_NODE_TYPE]
        offers = json.loads(Path(self.provider_config["offers"]).read_text())
        there = len(self.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: node_type}))
        if there + count > offers.get(node_type, there + count):
            raise NodeLaunchException("InsufficientInstanceCapacity", f"no {node_type} to be had", None)
        return super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
