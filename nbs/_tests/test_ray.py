"""A sweep over a Ray cluster of two nodes, on this machine, that loses a node in the middle and
is finished all the same.
"""

import json
import threading
import time
from pathlib import Path

import pytest
from fixtures import PRUNED, looks_right
from lengths import only_long, only_slow
from test_runs import own, tiny  # noqa: F401  (a fixture)

from fairgrape.sweep.grid import grid_cells, numbered, plan
from fairgrape.sweep.kernels import notebook_is_whole
from fairgrape.sweep.ray import OnRay
from fairgrape.sweep.record import sweeps
from fairgrape.sweep.sweep import Sweep

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'fairgrape[ray]'")


def two_nodes(tries: int = 3):
    """Two nodes with room for one run each; again if one does not come up: Ray gives a node 30
    s, which a machine full of other tests can use up
    """
    from ray.cluster_utils import Cluster

    nodes = Cluster()
    try:
        nodes.add_node(num_cpus=1, include_dashboard=False)
        nodes.second = nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        return nodes
    except Exception as e:  # Ray raises nothing more special
        ray.shutdown()
        nodes.shutdown()
        if tries < 2:
            raise
        print(f"Ray did not start ({e}); once more")
        return two_nodes(tries - 1)


@pytest.fixture
def cluster():
    nodes = two_nodes()
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def kernels(home: Path) -> int:
    return len(list(home.glob("runs/*/.prune.ipynb.part.ipynb")))


@pytest.mark.parametrize("fetch", ["", "node"], ids=["shared storage", "fetched"])
def test_a_node_dies_in_the_middle(request, own, tmp_path, fetch):  # noqa: F811
    (only_slow if fetch else only_long)(request, "a node that dies in the middle")
    cluster = request.getfixturevalue("cluster")
    cells = plan(
        numbered(grid_cells(dict(seed=[0, 1, 2]), tiny(own, tmp_path, method="ws", epochs="3")))
    )
    engine, lost = OnRay(fetch=str(tmp_path / fetch / "runs") if fetch else ""), []

    def lose():
        while sum(c.state == "running" for c in cells) < 2 or kernels(tmp_path / fetch) < 2:
            time.sleep(0.1)
        # before: the lost one soon waits again, and another takes the room
        lost.extend(c.index for c in cells if c.state == "running")
        cluster.remove_node(cluster.second)

    threading.Thread(target=lose, daemon=True).start()
    Sweep(cells, engine).run()
    assert len(lost) == 2 and [c.state for c in cells] == ["done"] * 3, [
        (c.state, c.reason) for c in cells
    ]
    assert (
        sorted(c.tries for c in cells) == [1, 1, 2]
        and next(c.index for c in cells if c.tries == 2) in lost
    )
    assert all(notebook_is_whole(Path(c.job.folder) / "prune.ipynb") for c in cells)
    for cell in cells:
        looks_right(Path(cell.job.folder) / "prune.ipynb", *PRUNED, tables=4)
    (record,) = sweeps(tmp_path / "runs")
    assert {c["state"] for c in record["cells"]} == {"done"} and not record["alive"]
    metrics = [json.loads((Path(c.job.folder) / "metrics.json").read_text()) for c in cells]
    assert all(
        abs(m["sparsity"] - float(c.parameters["rate"])) < 2e-3 for m, c in zip(metrics, cells)
    )
