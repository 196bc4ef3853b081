"""A Ray cluster of two nodes on this machine: ``python -m tests.engine.ray_nodes TEMPORARY HOME HOME``.

Ray reads its settings when it is imported, so it gets a process of its own. That prints the address, kills the second
node at the line ``kill`` on its input, and ends the cluster at the end of its input. Each node has one processor and a
workspace of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(temporary: str, *homes: str) -> None:
    from ray._common.utils import get_default_ray_temp_dir
    from ray.cluster_utils import Cluster

    # Ray notes the address there, too, wherever the nodes keep their files, and does not make the folder.
    Path(get_default_ray_temp_dir()).mkdir(parents=True, exist_ok=True)
    cluster = Cluster()
    first = {"temp_dir": temporary, "include_dashboard": False}
    nodes = [
        cluster.add_node(num_cpus=1, env_vars={"UNMASK_HOME": home}, **(first if home == homes[0] else {}))
        for home in homes
    ]
    sys.stdout.write(f"{cluster.address}\n")
    sys.stdout.flush()
    try:
        for line in sys.stdin:
            if line.strip() == "kill":
                cluster.remove_node(nodes[1], allow_graceful=False)
                sys.stdout.write("killed\n")
                sys.stdout.flush()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
