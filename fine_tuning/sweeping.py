"""Search for the settings with the lowest validation loss on the data of a retrain (`byoai sweep`)."""

from typing import TYPE_CHECKING

import yaml

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig
from fine_tuning.data_preparation.dataset_builder import hash_of
from fine_tuning.engines.base import Engine
from fine_tuning.events import Watch
from fine_tuning.pipeline import memory_for
from fine_tuning.planning import check_folders, check_plan, make_plan, replay_file
from fine_tuning.runs import only_one
from fine_tuning.workshop import Request, Workshop

if TYPE_CHECKING:
    from fine_tuning.training.sweep import SweepResult


def sweep(
    config: FineTuningConfig,
    engine: Engine,
    watch: Watch | None = None,
    request: Request | None = None,
    name: str | None = None,
) -> "SweepResult":
    """Search for the settings with the lowest validation loss, and return the result.

    The best settings are written to best.yaml in the sweep's folder, as a complete configuration.
    Dataset, base and replay are prepared once, under the lock of retrains; after that, other
    processes may join the search. `name`: the name of the sweep; None: one derived from dataset,
    base and ranges. Raises what `retrain` and `training.sweep.search` raise.
    """
    from fine_tuning.training.sweep import SWEPT, Prepared, search

    shop = Workshop(config, engine, watch, request)
    with only_one():
        check_folders(shop)
        plan = make_plan(shop, to_train=True)
        check_plan(shop, plan)
        replay = replay_file(shop.with_config(plan.config), plan.replay_prompts)
    config = plan.config
    others = config.training.model_dump(mode="json", exclude={*SWEPT, "batch_tokens"})
    facts = [plan.rows.name, plan.base.gguf_digest, replay and replay.name, others]
    identity, ranges = hash_of(facts), hash_of(config.sweep.model_dump(mode="json", exclude={"trials", "minutes"}))
    prepared = Prepared(plan.base.gguf, plan.rows, replay, identity, plan.estimate.base_weights)
    with memory_for(shop, plan), shop.watch.stage("Sweeping"):
        found = search(
            prepared,
            config.training,
            config.sweep,
            name or f"{plan.name}-{identity[:8]}-{ranges[:4]}",
            shop.watch,
        )
    best = config.changed({f"training.{key}": value for key, value in found.settings.items()})
    paths.atomic_write(
        found.folder / "best.yaml", yaml.safe_dump(best.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    )
    return found
