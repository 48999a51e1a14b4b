"""`python -m compress pocket`: corpus, speech, features, weights, scores and model card, in that order.

Every step leaves its result under the work directory and is skipped when it is there, so a killed
run goes on where it stopped.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from rich.console import Console
from rich.progress import Progress
from transformers import Qwen2Tokenizer
from transformers.utils import logging as transformers_logging

from compress.checkpoint import LINEAGE_FILE, Checkpoint, default_device
from compress.errors import CheckpointError
from compress.pocket import architecture, card, corpus, evaluation, features, speech, tower
from compress.pocket.corpus import Clip
from compress.pocket.packing import Example
from compress.pocket.recipe import PocketRecipe
from compress.pocket.training import TrainingSettings, train
from compress.prompt import END_OF_TURN, LANGUAGES, translation

_RESULT: Final = "result.json"


@dataclasses.dataclass(frozen=True)
class Build:
    """One run of the recipe.

    Attributes:
        recipe: what to make.
        work: directory of downloads, features and training states.
        console: where to talk to the user.
        workers: processes for speech and features.
    """

    recipe: PocketRecipe
    work: Path
    console: Console
    workers: int

    def run(self, out: Path, progress: Progress) -> Checkpoint:
        """Makes the checkpoint `out`; one already there is replaced only when the new one is whole.

        Raises:
            CheckpointError: `out` is a directory of something else, or the tower cannot be had.
            RecipeError: a synthesiser is missing.
        """
        _check_replaceable(out)
        speech.check_installed()
        # Softmax gradients fall below 1e-38 within minutes, where x86 computes a hundred times slower.  Threads
        # inherit the mode from the one that makes them: so before the first parallel operation.
        torch.set_flush_denormal(True)
        _keep_freed_memory()
        transformers_logging.disable_progress_bar()
        skeleton = self._skeleton()
        clips, talks, report = self._training_clips(), self._talks_clips(), self._report_clips()
        features.build([*clips, *talks, *report], skeleton, self._features, progress, self.workers)
        staged = self._train(skeleton, clips, progress)
        result = self._scores(staged, report, list(LANGUAGES), progress)
        result["headroom"] = {code: self._specialise(staged, code, talks, report, progress) for code in LANGUAGES}
        (staged / LINEAGE_FILE).write_text(json.dumps(self._lineage(result), indent=2, ensure_ascii=False) + "\n")
        (staged / "README.md").write_text(card.render(self.recipe, result, clips, report))
        _replace(staged, out)
        return Checkpoint.open(out)

    @property
    def _features(self) -> Path:
        return self.work / "features"

    def _training_clips(self) -> list[Clip]:
        return corpus.training_clips(self.recipe.n_sentences, self.recipe.n_silent)

    def _talks_clips(self) -> list[Clip]:
        return corpus.training_clips(
            {**dict.fromkeys(self.recipe.n_sentences, 0), "talks": self.recipe.n_specialist_sentences}, 0
        )

    def _report_clips(self) -> list[Clip]:
        human = [clip for clip in corpus.human_prompts() if Path(clip.path).is_file()][: self.recipe.n_human]
        if not human:
            self.console.print(
                f"[yellow]No human recordings: install Debian's {corpus.HUMAN_DEBIAN_PACKAGE} to report on them."
            )
        return [
            *corpus.evaluation_clips("report", self.recipe.n_per_stratum),
            *human,
            *corpus.silent_clips("report", self.recipe.n_silent_report),
        ]

    def _skeleton(self) -> Path:
        """A checkpoint with the pretrained tower, the corpus' own tokenizer and a random decoder."""
        self.console.print("Reading the grammars, training the tokenizer.")
        sentences = [
            s for domain, n in self.recipe.n_sentences.items() for s in corpus.sentences(domain, "train", max(n, 1000))
        ]
        texts = [text for s in sentences for text in (s.en, s.de, s.zh)]
        name = hashlib.sha256("\n".join([*texts, repr(self.recipe.seed)]).encode()).hexdigest()[:12]
        path = self.work / f"skeleton-{name}"
        if not path.is_dir():
            tokenizer = architecture.train_tokenizer(texts)
            weights = tower.load(tower.download(self.work / "downloads"), architecture.N_TOWER_LAYERS)
            model = architecture.initialise(architecture.configuration(tokenizer), weights, self.recipe.seed)
            temporary = path.with_suffix(".tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            architecture.save(model, architecture.processor(tokenizer), temporary)
            temporary.rename(path)
        return path

    def _train(self, skeleton: Path, clips: Sequence[Clip], progress: Progress) -> Path:
        name = _fingerprint([skeleton.name, self.recipe.training, _contents(clips)])
        path = self.work / f"pocket-{name}"
        if not path.is_dir():
            examples = self._examples(skeleton, clips, list(LANGUAGES))
            self._fit(skeleton, examples, self.recipe.training, path, progress)
        return path

    def _specialise(
        self, pocket: Path, language: str, clips: Sequence[Clip], report: Sequence[Clip], progress: Progress
    ) -> dict[str, Any]:
        """Full fine-tuning on talks for one language: how much the general model leaves to gain."""
        name = _fingerprint([pocket.name, language, self.recipe.specialist, _contents(clips)])
        path = self.work / f"talks-{language}-{name}"
        if not path.is_dir():
            examples = self._examples(pocket, clips, [language])
            self._fit(pocket, examples, self.recipe.specialist, path, progress)
        talks = [clip for clip in report if clip.domain == "talks"]
        return {"scores": self._scores(path, talks, [language], progress)["scores"], "n_sentences": len(clips)}

    def _fit(
        self, source: Path, examples: Sequence[Example], settings: TrainingSettings, out: Path, progress: Progress
    ) -> None:
        checkpoint = Checkpoint.open(source)
        model, processor = checkpoint.load_model(default_device(), torch.float32), checkpoint.load_processor()
        model.model.audio_tower.requires_grad_(False)
        state_file = out.with_suffix(".state")

        def report(step: int, answers: float, alignment: float) -> None:
            line = {"step": step, "answer_loss": round(answers, 4), "alignment_loss": round(alignment, 4)}
            with out.with_suffix(".log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

        train(model, examples, settings, state_file, progress, report)
        temporary = out.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        architecture.save(model, processor, temporary)
        temporary.rename(out)
        state_file.unlink()

    def _examples(self, source: Path, clips: Sequence[Clip], languages: list[str]) -> list[Example]:
        tokenizer = Checkpoint.open(source).load_processor().tokenizer
        before = _encode(tokenizer, translation("de").before)
        asks = {code: _encode(tokenizer, translation(code).after) for code in languages}
        end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
        return [
            Example(
                features=features.load(clip, self._features),
                before=before,
                branches=[(ask, [*_encode(tokenizer, getattr(clip, code)), end]) for code, ask in asks.items()],
                transcript=_encode(tokenizer, clip.en),
            )
            for clip in clips
        ]

    def _scores(self, path: Path, clips: Sequence[Clip], languages: list[str], progress: Progress) -> dict[str, Any]:
        """Translates and scores, or reads what an earlier run found; hypotheses are kept beside the scores."""
        name = _fingerprint([_contents(clips), languages])
        cached = path.parent / f"{path.name}-{name}.{_RESULT}"
        if cached.is_file():
            return dict(json.loads(cached.read_text()))
        checkpoint = Checkpoint.open(path)
        model, processor = checkpoint.load_for_inference(torch.float32), checkpoint.load_processor()
        result: dict[str, Any] = {"scores": [], "silence": {}, "hypotheses": {}}
        for code in languages:
            hypotheses = evaluation.translate_clips(model, processor, clips, code, self._features, progress)
            result["scores"] += [found.as_json() for found in evaluation.score(clips, hypotheses, code)]
            result["silence"][code] = evaluation.invented_words(clips, hypotheses)
            result["hypotheses"][code] = {clip.id: text for clip, text in zip(clips, hypotheses, strict=True)}
        temporary = cached.with_suffix(".tmp")
        temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False))
        temporary.replace(cached)
        return result

    def _lineage(self, result: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": "pocket",
            "parent": "Whisper tiny.en encoder; decoder trained from scratch",
            "layers": list(range(12)),
            "format": "bf16",
            "recipe": self.recipe.as_json(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "split": "report",
            "scores": result["scores"],
        }


def default_workers() -> int:
    """One process a core."""
    return max(1, os.cpu_count() or 1)


def _keep_freed_memory() -> None:
    """Has glibc reuse large blocks instead of returning them: fresh pages cost a fifth of a training step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return  # another C library; only slower
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)


def _encode(tokenizer: Qwen2Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _contents(clips: Sequence[Clip]) -> list[tuple[str, str, str]]:
    return [(clip.id, clip.de, clip.zh) for clip in clips]


def _fingerprint(content: list[Any]) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]


def _check_replaceable(out: Path) -> None:
    """Refuses to replace a directory that holds something other than a checkpoint."""
    if out.is_dir() and any(out.iterdir()) and not (out / "config.json").is_file():
        raise CheckpointError(f"{out} holds files and is no checkpoint: name another directory, this one is replaced")


def _replace(staged: Path, out: Path) -> None:
    """Copies the finished checkpoint beside `out` and swaps the directories."""
    temporary, old = (out.with_name(out.name + suffix) for suffix in (".new", ".old"))
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(staged, temporary)
    if out.is_dir():
        out.rename(old)
    temporary.rename(out)
    shutil.rmtree(old, ignore_errors=True)
