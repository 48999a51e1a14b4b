"""What llm-compressor is asked, and how its failures are told; and, where it is installed, what it really writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2AudioProcessor

from compress import decoding, doctor, export, llm_compressor, quantised_export
from compress.checkpoint import Checkpoint
from compress.errors import CheckpointError, RecipeError
from compress.prompt import translation
from compress.recipe_stages import Export
from compress.training.collate import training_examples
from compress.weights import compressed_tensors, schemes
from compress.weights.size import Layout
from tests.compress import narrow, toy_pipeline
from tests.compress.conftest import sound
from tests.compress.toy_training import examples
from tests.compress.weights.test_size import assert_as_planned

installed = pytest.mark.skipif(
    llm_compressor.version() is None,
    reason=f"no llm-compressor in {llm_compressor.ENVIRONMENT}: `make quantise` installs it",
)
STAND_IN = """\
#!{python}
import json, pathlib, sys
from safetensors import safe_open
job = json.loads(pathlib.Path(sys.argv[3]).read_text())
with safe_open(job["inputs"], "np") as rows:
    lengths = [rows.get_slice(name).get_shape()[0] for name in sorted(rows.keys())]
pathlib.Path("{seen}").write_text(json.dumps(job | {{"program": sys.argv[1:3], "lengths": lengths}}))
print("Traceback:\\nValueError: no such scheme\\n", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def source(processor: Qwen2AudioProcessor, tmp_path: Path) -> Checkpoint:
    return narrow.checkpoint(processor, tmp_path / "narrow")


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """An environment whose Python writes down what it is told to do, and fails."""
    environment = tmp_path / "environment"
    program = environment / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(STAND_IN.format(python=sys.executable, seen=tmp_path / "seen.json"))
    program.chmod(0o755)
    about = environment / "lib" / "python3.11" / "site-packages" / "llmcompressor-1.2.3.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: llmcompressor\nVersion: 1.2.3\n")
    return environment


def test_a_job_is_told_in_json_and_a_failure_in_a_line(source: Checkpoint, stand_in: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"failed \(exit status 3\): ValueError: no such scheme$"):
        llm_compressor.quantise(source.path, {"targets": ["Linear"]}, [torch.zeros(3, 4)], tmp_path / "out", stand_in)
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["program"][0] == "-I"
    assert seen["program"][1].endswith("llm_compressor_job.py")
    assert (seen["checkpoint"], seen["scheme"]) == (str(source.path), {"targets": ["Linear"]})
    assert seen["inputs"].endswith(".safetensors")
    assert seen["lengths"] == [3]
    assert not Path(seen["inputs"]).exists()
    assert llm_compressor.version(stand_in) == "1.2.3"


def test_a_missing_environment_says_how_to_make_it(source: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is none in .*nothing: run `make quantise`"):
        quantised_export.check(Export(layout="fp8"), tmp_path / "nothing")
    quantised_export.check(Export(layout="bf16"), tmp_path / "nothing")
    with pytest.raises(RecipeError, match="run `make quantise`"):
        run(Export(layout="fp8"), source, tmp_path / "out", environment=tmp_path / "nothing")
    assert not (tmp_path / "out").exists()


def test_a_calibrated_layout_needs_training_data(source: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="w4a16 learns how to round from training data"):
        export.run(Export(layout="w4a16"), source, tmp_path / "out", clip=sound(1.0), prompt=translation("de"))


@pytest.mark.parametrize(("n", "chosen"), [(2, [0, 4]), (3, [0, 2, 5]), (9, list(range(8)))])
def test_calibration_takes_examples_from_everywhere(n: int, chosen: list[int]) -> None:
    some = examples(8)
    assert quantised_export.chosen(some, n) == [some[i] for i in chosen]


@pytest.fixture
def recipe(processor: Qwen2AudioProcessor, tmp_path: Path) -> Path:
    """The toy recipe, of whose stages an export alone is left."""
    file = toy_pipeline.write(tmp_path, processor)
    content = yaml.safe_load(file.read_text())
    stages = [{"stage": "export", "layout": "w4a16", "calibration": 2}]
    file.write_text(yaml.safe_dump(content | {"stages": stages}))
    return file


def test_a_recipe_calibrates_with_its_training_split(recipe: Path, stand_in: Path, tmp_path: Path) -> None:
    pipeline, _ = toy_pipeline.pipeline(recipe, tmp_path / "work")
    pipeline.quantise_environment = stand_in
    with pytest.raises(CheckpointError, match="no such scheme"):
        pipeline.run()
    training = training_examples(pipeline.split("train"))
    some = quantised_export.chosen(training, 2)
    inputs = quantised_export.decoder_inputs(Checkpoint.open(tmp_path / "narrow"), some, translation("de"))
    assert json.loads((tmp_path / "seen.json").read_text())["lengths"] == [len(row) for row in inputs]


@installed
def test_a_recipe_really_exports_a_calibrated_layout(recipe: Path, tmp_path: Path) -> None:
    *_, result = toy_pipeline.carry_out(recipe, tmp_path / "work")
    assert result.checkpoint is not None
    assert result.checkpoint.lineage["format"] == "w4a16"
    assert doctor.examine(result.checkpoint.path).healthy
    assert [one.metric for one in result.report.scores] == ["BLEU", "chrF++"]


def test_the_decoder_reads_prompt_speech_and_answer(source: Checkpoint) -> None:
    model, processor = source.load_for_inference(torch.float32), source.load_processor()
    (example,) = examples(1)
    (found,) = quantised_export.decoder_inputs(source, [example], translation("de"))
    parts = (translation("de").before, translation("de").after, example.target, "<|im_end|>\n")
    tokens = [processor.tokenizer.encode(part, add_special_tokens=False) for part in parts]
    n_audio = decoding.n_audio_tokens(decoding.n_mel_frames(len(example.audio.load())))
    assert found.shape == (n_audio + sum(map(len, tokens)), 64)
    embedded = model.get_input_embeddings()(torch.tensor(tokens[2] + tokens[3])).bfloat16()
    assert torch.equal(found[-len(embedded) :], embedded)


def run(stage: Export, source: Checkpoint, out: Path, environment: Path = llm_compressor.ENVIRONMENT) -> Checkpoint:
    prompt = translation("de")
    return export.run(stage, source, out, clip=sound(1.0), prompt=prompt, training=examples(6), environment=environment)


@installed
def test_a_real_export_with_int8_embeddings_is_as_planned(source: Checkpoint, tmp_path: Path) -> None:
    made = run(Export(layout="fp8", embeddings="int8"), source, tmp_path / "out")
    assert_as_planned(made.path, Layout.FP8, "int8")
    assert doctor.examine(made.path).healthy
    assert made.lineage["format"] == "fp8, int8 embeddings"
    assert list((made.quantisation or {})["config_groups"]) == ["group_0", "group_1"]
    plain, written = narrow.tensors(source.path), narrow.tensors(made.path)
    for name in schemes.EMBEDDINGS:
        parts = compressed_tensors.quantise(plain[name])
        assert all(torch.equal(written[name + suffix], part) for suffix, part in parts.items())


@installed
@pytest.mark.parametrize("layout", ["w4a16", "fp8"])
def test_a_real_export_is_as_planned_and_reads_as_its_own_library_reads_it(
    layout: schemes.Layout, source: Checkpoint, tmp_path: Path
) -> None:
    settings = Export.model_validate({"layout": layout, "calibration": 4 if layout == "w4a16" else None})
    made = run(settings, source, tmp_path / "out")
    assert_as_planned(made.path, Layout(layout))
    assert doctor.examine(made.path).healthy
    assert sorted(file.name for file in made.path.iterdir()) == sorted(
        [*(file.name for file in source.path.iterdir()), "README.md"]
    )
    assert made.lineage["format"] == layout
    assert isinstance(made.lineage["trial"], str)
    plain, written = narrow.tensors(source.path), narrow.tensors(made.path)
    for name in plain.keys() & written.keys():
        assert schemes.covers(name, tuple(plain[name].shape)) or torch.equal(written[name], plain[name]), name
    wanted, found = as_its_own_library(made.path, tmp_path), made.load_model("cpu", torch.bfloat16).state_dict()
    assert found.keys() <= wanted.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name]), name
    (made.path / "README.md").write_text("edited")
    run(settings, source, tmp_path / "out")
    assert (made.path / "README.md").read_text() == "edited"  # and is not made twice


def as_its_own_library(checkpoint: Path, folder: Path) -> dict[str, Tensor]:
    """The weights as transformers and compressed-tensors make them plain."""
    program, out = Path(__file__).with_name("compressed_reference.py"), folder / "reference.safetensors"
    done = subprocess.run(
        [llm_compressor.ENVIRONMENT / "bin" / "python", "-I", program, checkpoint, out],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return load_file(out)
