"""What `GET /v1/models` tells of a checkpoint, however odd its lineage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from compress.checkpoint import POCKET, Checkpoint
from compress.score import Score
from serve.engine import ModelInfo
from serve.model_card import ModelCard, model_card, model_info
from serve.routes import TRANSLATIONS
from tests.serve.servers import ScriptedTranslator, Server, form, running, settings_for_tests

SCORE = Score("BLEU", 12.3, 11.0, 13.0, 100, "nrefs:1", "report", "de", "daily")


def card(**lineage: Any) -> ModelCard:
    return model_card(ModelInfo("model", lineage, 7, 1_700_000_000))


def test_the_pocket_model_introduces_itself(server: Server) -> None:
    (entry,) = httpx.get(f"{server.url}/v1/models").json()["data"]
    lineage = Checkpoint.open(POCKET).lineage
    assert entry["id"] == "pocket"
    assert entry["object"] == "model"
    assert entry["languages"] == ["de", "zh"]
    assert entry["parent"] == lineage["parent"]
    assert entry["layers"] == list(range(12))
    assert entry["format"] == "bf16"
    assert entry["bytes"] == (POCKET / "model.safetensors").stat().st_size
    assert entry["parameters"] == entry["stored_elements"] == 19_788_288
    assert entry["lineage"] == lineage
    assert len(entry["scores"]) == len(lineage["scores"])
    for score in entry["scores"]:
        assert score["signature"]
        assert score["split"] == "report"
        assert score["group"]
        assert score["n"] >= 100


def test_scores_of_the_stages_are_read() -> None:
    (score,) = card(scores=[SCORE.as_json() | {"paper_parity": True}]).scores
    assert score.model_dump() == SCORE.as_json() | {"paper_parity": True}


def test_a_variant_offers_the_language_it_was_made_for() -> None:
    assert card(language="zh").languages == ["zh"]
    assert card(language="fr").languages == card().languages == ["de", "zh"]


def test_nothing_is_known_of_a_checkpoint_without_a_lineage() -> None:
    found = card()
    assert (found.parent, found.layers, found.format, found.parameters, found.stored_elements) == (None,) * 5
    assert found.scores == []


@pytest.mark.parametrize(
    "lineage",
    [
        {"scores": "good"},
        {"scores": [None, "BLEU", {"metric": "BLEU", "value": 99.9}]},
        {"parent": 7, "format": ["bf16"], "layers": ["0"], "tower_layers": "all", "language": ["de"]},
    ],
)
def test_what_cannot_be_understood_is_left_out(lineage: dict[str, Any]) -> None:
    found = card(**lineage)
    assert found.scores == []
    assert (found.parent, found.layers, found.tower_layers, found.format) == (None,) * 4
    assert found.lineage == lineage


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_model_is_not_asked_for_a_language_that_it_was_not_made_for(clip: Path, stream: str) -> None:
    translator = ScriptedTranslator("Hallo")
    translator.lineage = {"language": "de"}
    with running(settings_for_tests(), translator) as server:
        url, fields = server.url + TRANSLATIONS, {"model": "scripted", "stream": stream}
        refused = httpx.post(url, **form(clip, to_language="zh", **fields))
        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == "model 'scripted' translates into de, not 'zh'"
        assert httpx.post(url, **form(clip, to_language="de", **fields)).is_success


def test_a_card_tells_all_that_it_was_made_of(server: Server) -> None:
    (entry,) = httpx.get(f"{server.url}/v1/models").json()["data"]
    (model,) = server.engine.models
    assert model_info(entry) == model


def test_what_vllm_does_not_say_of_a_model_stays_unknown() -> None:
    entry = {"id": "m", "object": "model", "created": 1, "owned_by": "vllm", "root": "m", "parent": None}
    card = model_card(model_info(entry))
    assert (card.id, card.languages) == ("m", ["de", "zh"])
    assert (card.bytes, card.parameters, card.layers) == (None, None, None)


@pytest.mark.parametrize("entry", [None, "m", {}, {"id": 7}, {"id": "m", "lineage": []}])
def test_what_is_no_card_is_refused(entry: object) -> None:
    with pytest.raises(ValueError, match="validation error"):
        model_info(entry)
