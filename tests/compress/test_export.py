"""Every layout is what it says, as big as planned, loads and translates; pushing asks a hub for the right things."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from transformers import Qwen2AudioProcessor

from compress import doctor, export, qlora
from compress.audio import Samples, decode
from compress.checkpoint import ADAPTER_WEIGHTS, POCKET, Checkpoint
from compress.errors import CheckpointError, RecipeError
from compress.prompt import translation
from compress.recipe import Data, Recipe
from compress.recipe_stages import Export, Optimisation, Qlora
from compress.weights import storage
from compress.weights.architectures import Architecture
from compress.weights.size import Layout, measure, plan_size, planned_entries
from compress.weights.storage import Form
from tests.compress import narrow
from tests.compress.conftest import sound
from tests.compress.toy_training import examples
from tests.compress.weights.test_size import assert_as_planned

pytest.importorskip("peft", reason="this environment is behind requirements/test.txt")

ROOT = Path(__file__).parents[2]
FLIGHT = ROOT / "serve" / "examples" / "phone_gate_change.flac"


SCORED = {
    "scores": [
        {
            "metric": "BLEU",
            "value": 12.0,
            "low": 11.0,
            "high": 13.0,
            "n": 5,
            "signature": "s",
            "split": "report",
            "language": "de",
            "group": "",
        }
    ]
}


@pytest.fixture
def source(processor: Qwen2AudioProcessor, tmp_path: Path) -> Checkpoint:
    return narrow.checkpoint(processor, tmp_path / "narrow")


@pytest.fixture
def adapted(source: Checkpoint, tmp_path: Path) -> Checkpoint:
    """As the qlora stage leaves it, with a score."""
    made = narrow.adapted(source, tmp_path / "adapted", narrow.stage(), Form("all", torch.float32))
    storage.write_lineage(made.path, made.lineage | SCORED)
    return Checkpoint.open(made.path)


def stage(layout: str, merge: bool = False, modules: str = "all") -> Export:
    return Export.model_validate({"stage": "export", "layout": layout, "merge": merge, "modules": modules})


def run(settings: Export, source: Checkpoint, out: Path, clip: Samples | None = None) -> Checkpoint:
    return export.run(settings, source, out, clip=sound(1.0) if clip is None else clip, prompt=translation("de"))


# --- layouts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "form"),
    [
        (stage("paper"), Form("all", torch.float32)),
        (stage("compact"), Form("all", torch.bfloat16)),
        (stage("compact", merge=True), Form("all", torch.bfloat16, merge=True)),
        (stage("compact", merge=True, modules="decoder"), Form("decoder", torch.bfloat16, merge=True)),
        (stage("bf16"), Form(None, torch.bfloat16)),
        (stage("bf16", merge=True), Form(None, torch.bfloat16, merge=True)),
    ],
)
def test_a_layout_is_stored_as_it_says_and_loads(
    settings: Export, form: Form, adapted: Checkpoint, tmp_path: Path
) -> None:
    made = run(settings, adapted, tmp_path / "out")
    storage.rewrite(adapted, tmp_path / "wanted", form)
    narrow.assert_same_bits(narrow.tensors(made.path), narrow.tensors(tmp_path / "wanted"))
    assert made.name == "out"
    assert made.lineage["parent"] == "adapted"
    assert made.lineage["format"].startswith(settings.layout)
    assert made.lineage["history"][-1]["layout"] == settings.layout
    assert isinstance(made.lineage["trial"], str)
    assert doctor.examine(made.path).engine("transformers").serves
    card = (made.path / "README.md").read_text()
    assert card.startswith("---\n")
    assert "| export | adapted |" in card


def test_the_decoder_alone_in_4_bits_is_what_vllm_can_load(source: Checkpoint, tmp_path: Path) -> None:
    compact = run(stage("compact"), source, tmp_path / "compact")
    assert doctor.examine(compact.path).engine("vllm").reasons
    for name, whole in (("plain", source), ("packed", compact)):
        made = run(stage("compact", modules="decoder"), whole, tmp_path / name)
        report = doctor.examine(made.path)
        assert report.engine("vllm").serves, report.engine("vllm").reasons
        assert report.engine("transformers").serves
        assert made.lineage["format"] == "compact, decoder only"
        kept, wanted = narrow.tensors(made.path), narrow.tensors(compact.path)
        for tensor in (each for each in wanted if each.startswith("language_model.")):
            assert torch.equal(kept[tensor], wanted[tensor]), tensor
        plain = narrow.tensors(source.path)
        assert all(kept[tensor].shape == plain[tensor].shape for tensor in plain if tensor.startswith("audio_tower."))


def test_a_choice_of_modules_changes_no_export_that_was_made_without_one() -> None:
    assert "modules" not in stage("compact").model_dump(mode="json")
    assert stage("compact", modules="decoder").model_dump(mode="json")["modules"] == "decoder"


@pytest.mark.parametrize("layout", ["bf16", "paper"])
def test_modules_are_for_a_layout_that_leaves_them_open(layout: str, source: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="modules decoder is for layout compact"):
        run(stage(layout, modules="decoder"), source, tmp_path / "out")


@pytest.mark.parametrize("layout", ["w4a16", "int8", "fp8"])
def test_vllms_layouts_have_no_adapter_beside_them(layout: str, adapted: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"layout {layout} has no adapter beside it, and adapted has one: merge it"):
        run(stage(layout), adapted, tmp_path / "out")


def test_calibration_changes_no_export_that_has_none() -> None:
    assert "calibration" not in stage("compact").model_dump(mode="json")
    assert (stage("w4a16").n_calibration, stage("fp8").n_calibration) == (128, 0)
    with pytest.raises(ValueError, match="calibration is for layouts w4a16 and int8"):
        Export(layout="fp8", calibration=8)


def test_the_paper_layout_of_a_trained_adapter_is_the_same_to_the_bit(adapted: Checkpoint, tmp_path: Path) -> None:
    made = run(stage("paper"), adapted, tmp_path / "out")
    narrow.assert_same_bits(narrow.tensors(made.path), narrow.tensors(adapted.path))


def test_scores_stay_true_only_for_the_same_weights(adapted: Checkpoint, source: Checkpoint, tmp_path: Path) -> None:
    storage.write_lineage(source.path, source.lineage | SCORED)
    source = Checkpoint.open(source.path)
    for settings, origin, kept in [
        (stage("paper"), adapted, True),
        (stage("compact"), adapted, False),
        (stage("compact", merge=True), adapted, False),
        (stage("bf16"), adapted, False),
        (stage("bf16"), source, True),
        (stage("compact"), source, False),
        (stage("paper"), source, False),
    ]:
        made = run(settings, origin, tmp_path / "out")
        assert ("scores" in made.lineage) == kept, settings
        assert ("Not scored" in (made.path / "README.md").read_text()) != kept


def test_compact_is_smaller_and_merged_smaller_still(adapted: Checkpoint, tmp_path: Path) -> None:
    paper = measure(run(stage("paper"), adapted, tmp_path / "paper").path)
    compact = measure(run(stage("compact"), adapted, tmp_path / "compact").path)
    merged = measure(run(stage("compact", merge=True), adapted, tmp_path / "merged").path)
    assert paper.tensor_bytes > compact.tensor_bytes > merged.tensor_bytes
    assert paper.logical_parameters == compact.logical_parameters == merged.logical_parameters
    assert merged.adapter_elements == 0


# --- the pocket model -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The pocket model with the paper's adapter, after one step."""
    directory = tmp_path_factory.mktemp("pocket")
    settings = Qlora(stage="qlora", optimisation=Optimisation(epochs=1, batch_size=4))
    recipe = Recipe(
        name="toy", model="pocket", language="de", data=Data(source="pocket", domain="talks"), stages=(settings,)
    )
    source, progress = Checkpoint.open(POCKET), Progress(disable=True)
    return qlora.run(settings, recipe, examples(4), source, directory / "student", directory / "work", progress)


@pytest.mark.parametrize("layout", [Layout.PAPER, Layout.COMPACT])
def test_the_pocket_model_is_as_big_as_planned(layout: Layout, student: Checkpoint, tmp_path: Path) -> None:
    made = run(stage(layout.value), student, tmp_path / "out")
    assert_as_planned(made.path, layout)
    pocket = Architecture.read(POCKET)
    planned, measured = plan_size(pocket, layout), measure(made.path)
    # every state names the mean of its weight's scales, in as many digits as it takes
    stored = sum(state.numel() for name, state in narrow.tensors(made.path).items() if "quant_state" in name)
    typical = sum(entry.n_bytes for entry in planned_entries(pocket, layout) if "quant_state" in entry.name)
    assert measured.tensor_bytes - stored == planned.tensor_bytes - typical
    assert measured.groups["embeddings"] == planned.groups["embeddings"]
    assert measured.groups["lm_head"] == planned.groups["lm_head"]
    assert measured.groups["adapter"] == planned.groups["adapter"]


def test_a_layout_that_changes_nothing_translates_as_before(tmp_path: Path) -> None:
    clip, pocket = decode(FLIGHT), Checkpoint.open(POCKET)
    made = run(stage("bf16"), pocket, tmp_path / "out", clip)
    assert made.lineage["trial"] == export.try_out(pocket, clip, translation("de")) != ""
    assert made.lineage["layers"] == list(range(12))


def test_4_bits_still_translate(tmp_path: Path) -> None:
    clip, pocket = decode(FLIGHT), Checkpoint.open(POCKET)
    made = run(stage("compact"), pocket, tmp_path / "out", clip)
    assert made.adapter is None
    assert len(str(made.lineage["trial"]).split()) > 3
    assert made.n_bytes < 0.5 * pocket.n_bytes


# --- refused, failed, killed ------------------------------------------------------------------------------------


def test_nothing_to_merge(source: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="narrow has no adapter to merge"):
        run(stage("bf16", merge=True), source, tmp_path / "out")


def test_the_paper_did_not_merge(adapted: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="layout paper keeps the adapter beside the weights"):
        run(stage("paper", merge=True), adapted, tmp_path / "out")


def test_a_checkpoint_is_not_exported_over_itself(source: Checkpoint) -> None:
    with pytest.raises(RecipeError, match="is the checkpoint to export"):
        run(stage("compact"), source, source.path)


def test_weights_that_compute_no_numbers_are_noticed(source: Checkpoint, tmp_path: Path) -> None:
    out = run(stage("bf16"), source, tmp_path / "out")
    file = source.path / "model.safetensors"
    held = {name: tensor.clone() for name, tensor in load_file(file).items()}
    held["language_model.model.norm.weight"][3] = torch.nan
    save_file(held, file)
    with pytest.raises(CheckpointError, match="scores are not finite"):
        run(stage("compact"), source, tmp_path / "out")
    narrow.assert_same_bits(narrow.tensors(tmp_path / "out"), narrow.tensors(out.path))
    assert Checkpoint.open(tmp_path / "out").lineage == out.lineage


def test_an_adapter_that_does_not_load_is_noticed(adapted: Checkpoint, tmp_path: Path) -> None:
    assert adapted.adapter is not None
    file = adapted.adapter / ADAPTER_WEIGHTS
    held = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(dict(list(held.items())[2:]), file)
    with pytest.raises(CheckpointError, match="is for other weights: 2 tensors do not fit"):
        run(stage("compact"), adapted, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_something_else_is_not_replaced(source: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"")
    with pytest.raises(CheckpointError, match="holds files and is no checkpoint"):
        run(stage("compact"), source, tmp_path / "photos")
    assert (tmp_path / "photos" / "one.jpg").exists()


KILLED_AT_THE_TRIAL = """
import os, signal, sys
from pathlib import Path
from compress import export
from compress.checkpoint import Checkpoint
from tests.compress import test_export
from tests.compress.conftest import sound

class Deadly:
    text = ""

    @property
    def before(self):
        os.kill(os.getpid(), signal.SIGKILL)

source, out = map(Path, sys.argv[1:])
settings = test_export.stage("compact")
export.run(settings, Checkpoint.open(source), out, clip=sound(1.0), prompt=Deadly())
"""


def test_a_killed_run_leaves_nothing_and_the_next_one_ends_the_same(source: Checkpoint, tmp_path: Path) -> None:
    wanted = run(stage("compact"), source, tmp_path / "wanted")
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED_AT_THE_TRIAL, str(source.path), str(out)]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False, timeout=300)
    assert ended.returncode == -signal.SIGKILL
    assert not out.exists()
    assert any(tmp_path.glob("killed.*"))
    made = run(stage("compact"), source, out)
    narrow.assert_same_bits(narrow.tensors(made.path), narrow.tensors(wanted.path))
    assert not any(tmp_path.glob("killed.*"))


def test_a_finished_run_is_not_repeated_unless_something_is_other(source: Checkpoint, tmp_path: Path) -> None:
    made = run(stage("compact"), source, tmp_path / "out")
    (made.path / "README.md").write_text("edited")
    run(stage("compact"), source, tmp_path / "out")
    assert (made.path / "README.md").read_text() == "edited"
    run(stage("bf16"), source, tmp_path / "out")
    assert (made.path / "README.md").read_text() != "edited"


# --- pushing ----------------------------------------------------------------------------------------------------


@dataclass
class Shelf:
    """A hub that writes down what it is asked."""

    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refusal: OSError | None = None

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.asked.append(("create_repo", {"repo_id": repo_id, "private": private, "exist_ok": exist_ok}))

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool) -> None:
        self.asked.append(("create_branch", {"repo_id": repo_id, "branch": branch, "exist_ok": exist_ok}))

    def upload_folder(self, *, repo_id: str, folder_path: Path, revision: str | None, commit_message: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.asked.append(("upload_folder", {"repo_id": repo_id, "folder_path": folder_path, "revision": revision}))


def test_a_dry_run_lists_every_file_and_asks_nothing(adapted: Checkpoint) -> None:
    hub = Shelf()
    upload = export.push(adapted, "someone/student", revision="v1", dry_run=True, hub=hub)
    assert not hub.asked
    files = {file.relative_to(adapted.path).as_posix(): file for file in adapted.path.rglob("*") if file.is_file()}
    assert dict(upload.files) == {name: file.stat().st_size for name, file in files.items()}
    assert "adapter/adapter_model.safetensors" in dict(upload.files)
    assert upload.n_bytes == sum(file.stat().st_size for file in files.values())
    assert (upload.repository, upload.revision) == ("someone/student", "v1")


def test_pushing_makes_repository_and_branch_and_uploads_once(source: Checkpoint) -> None:
    hub = Shelf()
    export.push(source, "someone/student", revision="v1", private=False, hub=hub)
    assert hub.asked == [
        ("create_repo", {"repo_id": "someone/student", "private": False, "exist_ok": True}),
        ("create_branch", {"repo_id": "someone/student", "branch": "v1", "exist_ok": True}),
        ("upload_folder", {"repo_id": "someone/student", "folder_path": source.path, "revision": "v1"}),
    ]
    hub = Shelf()
    export.push(source, "someone/student", hub=hub)
    assert [name for name, _ in hub.asked] == ["create_repo", "upload_folder"]
    assert hub.asked[0][1]["private"]


def test_the_library_has_what_is_asked_of_a_hub() -> None:
    import inspect

    from huggingface_hub import HfApi

    for name in ("create_repo", "create_branch", "upload_folder"):
        wanted = inspect.signature(getattr(export.Hub, name)).parameters
        assert set(wanted) <= set(inspect.signature(getattr(HfApi, name)).parameters), name


@pytest.mark.parametrize("name", ["student", "some one/student", "a/b/c", "someone/stu--dent", ""])
def test_a_bad_name_is_refused(name: str, source: Checkpoint) -> None:
    with pytest.raises(RecipeError, match="repository"):
        export.push(source, name, dry_run=True)


def test_a_sick_checkpoint_is_not_published(source: Checkpoint) -> None:
    (source.path / "tokenizer.json").write_text('{"added_tokens": []}')
    hub = Shelf()
    with pytest.raises(CheckpointError, match=r"not fit to be published: tokenizer\.json has no token"):
        export.push(source, "someone/student", hub=hub)
    assert not hub.asked


def test_a_refusal_is_told_in_the_hubs_words(source: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="could not be uploaded to someone/student: you shall not pass"):
        export.push(source, "someone/student", hub=Shelf(refusal=PermissionError("you shall not pass")))


def test_a_prompt_of_the_base_model_will_do(source: Checkpoint, tmp_path: Path) -> None:
    made = export.run(stage("bf16"), source, tmp_path / "out", clip=sound(0.5), prompt=translation("de", "base"))
    assert isinstance(made.lineage["trial"], str)
