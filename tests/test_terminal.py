"""What the command line shows of what there is."""

from types import SimpleNamespace

import pytest

from fine_tuning import terminal
from fine_tuning.model_management import elo, model_switcher
from fine_tuning.model_management.model_registry import Registry


@pytest.mark.parametrize("columns", ["80", "200"])
def test_models_are_listed_with_their_whole_names_and_what_is_known_of_each(tmp_path, monkeypatch, capsys, columns: str) -> None:
    registry = Registry(tmp_path / "state.db")
    reason = "general perplexity +5.1 %: too much was forgotten"
    metrics = {"base": {"perplexity": 17.2}, "tuned": {"perplexity": 2.1}}
    for number, verdict in enumerate(("passed every rule", reason), 1):
        registry.add("fine_tuned_sample", number, base_tag="smollm2:135m", metrics=metrics, verdict=verdict)
    registry.update("fine_tuned_sample", 2, labels=["short answers"])
    registry.add("fine_tuned_sample", 3, notes="found in the engine; how it was made is not known")
    there = [
        SimpleNamespace(tag="fine_tuned_sample:v1", kind="fine-tuned", live=True),
        SimpleNamespace(tag="fine_tuned_sample:v2", kind="fine-tuned", live=False),
        SimpleNamespace(tag="fine_tuned_sample:v3", kind="fine-tuned", live=False),
        SimpleNamespace(tag="smollm2:135m", kind="base", live=False),
    ]
    monkeypatch.setattr(model_switcher, "choices", lambda engine, prefix: there)
    monkeypatch.setattr(elo, "ratings", lambda: {"fine_tuned_sample:v1": (1016.0, 3)})
    monkeypatch.setenv("COLUMNS", columns)
    terminal.show_models(None, registry, "fine_tuned_")
    first, of_first, second, of_second, third, of_third, base = capsys.readouterr().out.splitlines()
    assert first.startswith("fine_tuned_sample:v1  live; ") and first.endswith("; from smollm2:135m; Elo 1016 after 3 votes")
    assert of_first.strip() == "perplexity 2.10, the base's 17.20; passed every rule"
    assert second.startswith("fine_tuned_sample:v2  ")
    assert of_second.strip() == f"perplexity 2.10, the base's 17.20; {reason}; short answers"
    assert "from" not in third and of_third.strip() == "found in the engine; how it was made is not known"
    assert base.split() == ["smollm2:135m", "base"]
