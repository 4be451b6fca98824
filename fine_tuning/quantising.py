"""Quantise versions: measure the size, speed and quality of each quantisation, and make a version with one."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig
from fine_tuning.data_preparation.dataset_builder import MANIFEST, Dataset
from fine_tuning.engines.base import Engine
from fine_tuning.errors import ConfigError, ExportError
from fine_tuning.events import Finished, Watch
from fine_tuning.judging import evaluate
from fine_tuning.model_management.bundle import write_quantised
from fine_tuning.model_management.gguf_export import QUANTIZATIONS
from fine_tuning.model_management.model_registry import Lineage, Version
from fine_tuning.outcome import NewVersion, finished
from fine_tuning.pipeline import make_version
from fine_tuning.plan import Material
from fine_tuning.resuming import check_shop, fresh_run, run_behind
from fine_tuning.runs import only_one
from fine_tuning.workshop import Request, Workshop, shop_of

if TYPE_CHECKING:
    from fine_tuning.evaluation.compression import Measured
    from fine_tuning.token_rows import ScoredRow

USUAL = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0")
NOW = "now"


@dataclass(frozen=True)
class Compression:
    """The measurements of a version's quantisations."""

    tag: str  # of the version
    table: tuple["Measured", ...]  # the first is the version as it is served now
    texts: int  # number of held-out texts on which perplexity was measured
    recommended: str  # the name of a quantisation in the table
    why: str  # the reason, for the user


def compare_quantisations(
    config: FineTuningConfig, engine: Engine, watch: Watch, version: Version, wanted: Sequence[str] = USUAL
) -> Compression:
    """Make each of the `wanted` quantisations of a version, measure it, and remove it; return all measurements.

    Raises ConfigError for an unknown quantisation, and ExportError if none of them can be made.
    """
    from fine_tuning.evaluation.compression import Scale, recommend
    from fine_tuning.evaluation.speed import Served

    for name in wanted:
        _check(name)
    with only_one():
        shop = shop_of(version, config, engine, watch)
        shown = engine.show(version.tag)
        rows = _rows(shop, version)
        table: list[Measured] = []
        with watch.stage("Reading the held-out texts as it is now"):
            scale = Scale(
                Served(NOW, shown.gguf, shown.spec.adapter), rows, config.evaluation.speed_rounds, watch.count
            )
        config.runs_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=config.runs_dir, prefix=".quantise-") as folder:
            for name in wanted:
                watch.stop_if_asked()
                file = Path(folder) / f"{name.lower()}.gguf"
                try:
                    write_quantised(engine, version, file, name, watch)
                except ExportError as error:
                    watch.note(f"{name} cannot be made: {error}")
                    continue
                with watch.stage(f"Measuring {name.lower()}"):
                    now, made = scale.weigh(Served(name.lower(), file))
                table += [made] if table else [now, made]
                file.unlink()
    if not table:
        raise ExportError(
            f"{version.tag} cannot be quantised to any of {', '.join(wanted)}: the notes above say why. Choose others "
            "with --only"
        )
    best, why = recommend(table)
    watch.tell(Finished("done", why, version.tag, seconds=watch.seconds))
    return Compression(version.tag, tuple(table), len(rows), best, why)


def quantise_version(
    config: FineTuningConfig,
    engine: Engine,
    watch: Watch,
    version: Version,
    quantization: str,
    *,
    promote: bool = False,
) -> NewVersion:
    """Make a new version that is a quantised copy of `version`, as a GGUF of the whole model.

    The gate judges it like any other version, except that it need not be better than the original.
    It goes live if the gate accepts it, the original is live and deployment.auto_deploy is on, or
    in any case if `promote` is true. Raises ConfigError for an unknown quantisation, or if the
    version's run or data is missing. Also raises the errors of `retrain`.
    """
    _check(quantization)
    with only_one():
        live = Workshop(config, engine, watch).registry.live(version.name)
        follows = live is not None and live.number == version.number
        changes = {
            "deployment.mode": "merged",
            "deployment.quantization": quantization.lower(),
            "deployment.auto_deploy": config.deployment.auto_deploy and follows,
            "gate.better": False,
        }
        shop = shop_of(version, config.changed(changes), engine, watch, Request(promote=promote))
        check_shop(shop)
        run, material = run_behind(version, "quantised"), _material(shop, version)
        inputs = {**paths.read_json(run.inputs), "made_of": [version.tag]}
        with fresh_run(shop, quantization.lower(), inputs) as made:
            write_quantised(engine, version, made.model_gguf, quantization, watch)
            shutil.copytree(run.adapter, made.adapter)
            judged = evaluate(shop, material, made, made.model_gguf, [])
            lineage = Lineage(((version.tag, 1.0),), f"quantised to {quantization.lower()}")
            new = make_version(shop, material, made, made.model_gguf, *judged, None, lineage)
    watch.tell(finished(new, watch.seconds))
    return new


def _check(quantization: str) -> None:
    if quantization.lower() not in QUANTIZATIONS:
        raise ConfigError(f"there is no quantization {quantization[:40]!r}: choose one of {', '.join(QUANTIZATIONS)}")


def _data(version: Version) -> tuple[Path, Path] | None:
    """Return the folders of a version's dataset and of its token rows; None if they are missing or unknown."""
    inputs = run_behind(version, "quantised").inputs
    if not inputs.exists():
        return None
    said = paths.read_json(inputs)
    dataset = paths.datasets_dir() / said["dataset"]
    rows = dataset / said["rows"]
    return (dataset, rows) if (rows / MANIFEST).exists() else None


def _material(shop: Workshop, version: Version) -> Material:
    if (found := _data(version)) is None:
        raise ConfigError(
            f"a quantisation of {version.tag} cannot be tested, because the chats that were kept to test it were "
            "deleted. Retrain, and quantise the new version"
        )
    learned, turns = (shop.registry.turns_of(version.name, version.number, with_context=also) for also in (False, True))
    return Material(Dataset(found[0]), found[1], sorted(turns), sorted(turns - learned))


def _rows(shop: Workshop, version: Version) -> "list[ScoredRow]":
    """Return the texts on which perplexity is measured: the version's held-out chats, and general texts."""
    from fine_tuning.evaluation.test_set import general_rows
    from fine_tuning.token_rows import read_token_rows

    settings = shop.config.evaluation
    own: list[ScoredRow] = []
    if found := _data(version):
        own = [(row.input_ids, row.targets) for row in read_token_rows(found[1] / "test.jsonl") if row.targets]
    else:
        shop.watch.note(f"the chats that were kept to test {version.tag} were deleted: only general texts are used")
    return [*own[: settings.held_out], *general_rows(shop.reader, settings.general)]
