"""The whole way from a big model to a small one: the stages of a recipe, in order.  Read this first.

Each stage has its own directory under `WORK/RECIPE/`: `RECIPE-STAGE` is its result, `scores.json` how well that
translates the report split, everything else its way there.  A stage whose result is there is not run again, and one
that another recipe of the same work directory has carried out is taken over from there; a result that was made with
other settings is never overwritten without being asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from rich.markup import escape
from rich.progress import Progress

from compress import (
    card,
    comet,
    dataset,
    distill,
    evaluation,
    export,
    finetune,
    hub,
    llm_compressor,
    prune,
    qlora,
    quantised_export,
    shared_stages,
)
from compress.audio import WINDOW_S
from compress.checkpoint import Checkpoint
from compress.dataset import Corpus, Utterance
from compress.errors import RecipeError
from compress.evaluation import Evaluation
from compress.recipe import Data, Recipe, Split
from compress.recipe_stages import Distill, Export, Finetune, Mix, Prune, Qlora, Stage
from compress.recovery import Recovery
from compress.training.collate import TrainingExample, training_examples
from compress.weights import storage

SCORES_FILE: Final = "scores.json"
BASELINE: Final = "baseline"


@dataclass(frozen=True)
class Result:
    """What one stage has made, and how well it translates the report split."""

    stage: str
    checkpoint: Checkpoint
    report: Evaluation


@dataclass
class Pipeline:
    """One recipe being carried out.

    Attributes:
        recipe: what to do.
        work: directory of all recipes' work; encoded audio is shared there.
        progress: shows every stage's steps done and time left.
        labels: the teacher's translations, once a stage has made them.
        made: each stage's checkpoint by its name, so far.
        comet_environment: where COMET is installed, if results are scored by it.
        quantise_environment: where llm-compressor is installed, if something is exported that needs it.
    """

    recipe: Recipe
    work: Path
    progress: Progress
    labels: tuple[TrainingExample, ...] = ()
    made: dict[str, Checkpoint] = field(default_factory=dict)
    comet_environment: Path = comet.ENVIRONMENT
    quantise_environment: Path = llm_compressor.ENVIRONMENT

    def run(self, again: Sequence[str] = ()) -> list[Result]:
        """Carries out all stages, and reports on each checkpoint, the recipe's own model first.

        Args:
            again: names of stages to repeat although their results are there.

        Raises:
            KompaktError: whatever the user can do wrong, see the stages.
        """
        self._check_stages(again)
        self._list_data()
        model = current = hub.fetch(self.recipe.model, self.recipe.revision)
        place = self.place(0, BASELINE)
        chain = self._find(None, model, model, place)
        results = [self._report(BASELINE, current, place)]
        shared_stages.record(place, chain)
        for number, stage in enumerate(self.recipe.stages, 1):
            source = self.made[stage.source] if stage.source else current
            place = self.place(number, stage.name)
            self.progress.console.rule(f"{self.recipe.name}: {stage.name}")
            chain = self._find(stage, model, source, place, repeat=stage.name in again)
            current = self._carry_out(stage, source, place)
            shared_stages.record(place, chain)
            if current is not source:
                results.append(self._enter(self._report(stage.name, current, place)))
                current = results[-1].checkpoint
            self.made[stage.name] = current
        return results

    def single(self, stage: Stage, model: str, *, repeat: bool) -> Path:
        """Carries out one stage on a model of the user's choice.

        Args:
            stage: one of the recipe's.
            model: where it starts; of `distill`, the teacher.
            repeat: although its result is there.

        Returns:
            The checkpoint it made, or the teacher's labels.

        Raises:
            KompaktError: see `run`.
        """
        if isinstance(stage, Prune):
            prune.check(stage)
        source = hub.fetch(model)
        if isinstance(stage, Distill):
            self.made[stage.teacher] = source
        elif isinstance(stage, Finetune | Qlora) and stage.mix.distilled:
            self.labels = self._labels_before(stage)
        place = self.place(self.recipe.stages.index(stage) + 1, stage.name)
        shared_stages.settle(stage, self._out(stage, place), repeat=repeat)
        shared_stages.forget(place)  # its model is any, not what the recipe's stages before it would have made
        made = self._carry_out(stage, source, place)
        return place / distill.LABELS_FILE if isinstance(stage, Distill) else made.path

    def _find(
        self, stage: Stage | None, model: Checkpoint, source: Checkpoint, place: Path, *, repeat: bool = False
    ) -> shared_stages.Chain:
        """All that a stage's result depends on; what another recipe has made of that is taken over, unless repeated."""
        source = self.made[stage.teacher] if isinstance(stage, Distill) else source
        chain = shared_stages.chain(self.recipe, stage, model, source, self._read(stage))
        name = stage.name if stage else BASELINE
        if repeat:
            pass
        elif donor := shared_stages.take_over(place, chain):
            self.progress.console.print(f"{name}: taken over from {donor}")
        elif donor := shared_stages.take_over_search(place, chain):
            self.progress.console.print(f"{name}: the search goes on from that of {donor}")
        if stage:
            shared_stages.settle(stage, self._out(stage, place), repeat=repeat)
        shared_stages.forget(place, chain)
        return chain

    def _read(self, stage: Stage | None) -> list[TrainingExample]:
        """What a stage is given."""
        match stage:
            case Finetune() | Qlora():
                return self.training(stage.mix)
            case Prune():
                return training_examples(self.split("search")) + (self.training(Mix()) if stage.recovery else [])
            case Distill():
                return training_examples(self.split("train"))
            case Export() if stage.n_calibration:
                return training_examples(self.split("train")) + training_examples(self.split("report"))
            case _:
                return training_examples(self.split("report"))

    def _out(self, stage: Stage, place: Path) -> Path:
        return place / f"{self.recipe.name}-{stage.name}"

    def _carry_out(self, stage: Stage, source: Checkpoint, place: Path) -> Checkpoint:
        out = self._out(stage, place)
        match stage:
            case Finetune():
                examples = self.training(stage.mix)
                return finetune.run(stage, self.recipe, examples, source, out, place, self.progress, self.cache)
            case Prune():
                found, recovery = self.split("search"), self._recovery(stage)
                return prune.run(stage, self.recipe, found, source, out, place, self.progress, recovery)
            case Distill():
                self._distill(stage, place)
                return source
            case Qlora():
                examples = self.training(stage.mix)
                return qlora.run(stage, self.recipe, examples, source, out, place, self.progress, self.cache)
            case Export():
                clip = self.split("report")[0].audio.load()
                training = training_examples(self.split("train")) if stage.n_calibration else []
                return export.run(
                    stage,
                    source,
                    out,
                    clip=clip,
                    prompt=self.recipe.wording,
                    training=training,
                    environment=self.quantise_environment,
                )

    def _distill(self, stage: Distill, place: Path) -> None:
        teacher = self.made[stage.teacher]
        labels = distill.run(stage, self.recipe, self.split("train"), teacher, place, self.progress, self.cache)
        self.labels = labels.examples
        self.progress.console.print(
            f"{labels.n_written} translations by {stage.teacher}: {labels.n_duplicates} equal the reference, "
            f"{labels.n_poor} are too poor, {len(labels.examples)} are kept."
        )

    def _labels_before(self, stage: Stage) -> tuple[TrainingExample, ...]:
        """What the recipe's `distill` stage before this one has left."""
        stages = self.recipe.stages[: self.recipe.stages.index(stage)]
        number, before = [(i, one) for i, one in enumerate(stages, 1) if isinstance(one, Distill)][-1]
        return distill.kept(before, self.split("train"), self.place(number, before.name)).examples

    def _recovery(self, stage: Prune) -> Recovery | None:
        """Fine-tuning as the stage says, of those parts that the recipe's fine-tuning before it has trained."""
        if stage.recovery is None:
            return None
        before = [one for one in self.recipe.stages[: self.recipe.stages.index(stage)] if isinstance(one, Finetune)]
        frozen = before[-1].frozen if before else ()
        tuning = Finetune(name="recovery", optimisation=stage.recovery, frozen=frozen)
        examples = self.training(tuning.mix)

        def tune(source: Checkpoint, out: Path, work: Path) -> Checkpoint:
            return finetune.run(tuning, self.recipe, examples, source, out, work, self.progress, self.cache)

        heard = [(one.id, one.audio.key, one.target) for one in examples]
        return Recovery(storage.digest(tuning.model_dump(mode="json"), heard), tune)

    def _report(self, name: str, checkpoint: Checkpoint, place: Path) -> Result:
        report, file = self.split("report"), place / SCORES_FILE
        found = evaluation.evaluate(
            checkpoint, self.recipe, report, "report", file, self.progress, self.cache, self.comet_environment
        )
        overall = [one for one in found.scores if not one.group]
        scores = ", ".join(f"{one.metric} {one.value:.2f} ({one.low:.1f}–{one.high:.1f})" for one in overall)
        parity = " (paper parity: searched on, too)" if self.recipe.data.paper_parity else ""
        self.progress.console.print(f"{name} on report{parity}: {scores}")
        return Result(name, checkpoint, found)

    def _enter(self, result: Result) -> Result:
        """Has the checkpoint itself say how well it translates; never the recipe's own model, which is the user's."""
        path = result.checkpoint.path
        card.enter(path, result.report.scores, paper_parity=self.recipe.data.paper_parity)
        return replace(result, checkpoint=Checkpoint.open(path))

    def training(self, mix: Mix) -> list[TrainingExample]:
        """The examples of a mix: references, the teacher's translations, out-of-domain data."""
        examples = training_examples(self.split("train")) * mix.in_domain + list(self.labels) * mix.distilled
        if mix.out_of_domain:
            examples += training_examples(self._other(mix.out_of_domain))
        return examples

    def _check_stages(self, again: Sequence[str]) -> None:
        """Finds what is wrong with the stages before hours of training."""
        names = [stage.name for stage in self.recipe.stages]
        unknown = [name for name in again if name not in names]
        if unknown:
            raise RecipeError(f"no stage {', '.join(unknown)} in {self.recipe.name}; its stages: {', '.join(names)}")
        for stage in self.recipe.stages:
            if isinstance(stage, Prune):
                prune.check(stage)
            if isinstance(stage, Export):
                quantised_export.check(stage, self.quantise_environment)
        if self.recipe.comet_model is not None:
            comet.check(self.recipe.comet_model, self.comet_environment)

    def _list_data(self) -> None:
        """Finds what is wrong with the data that the stages are going to need."""
        report = self.split("report")
        if self.recipe.comet_model is not None:
            comet.refuse_untranscribed([one.transcript for one in report], "utterances to report on")
        for stage in self.recipe.stages:
            if isinstance(stage, Prune):
                found = self.split("search")
                if stage.metric == "COMET":
                    comet.refuse_untranscribed([one.transcript for one in found], "utterances to search on")
            if isinstance(stage, Finetune | Qlora | Distill) or (
                (isinstance(stage, Prune) and stage.recovery is not None)
                or (isinstance(stage, Export) and stage.n_calibration)
            ):
                self.split("train")
            if isinstance(stage, Finetune | Qlora) and stage.mix.out_of_domain:
                self._other(stage.mix.out_of_domain)

    def split(self, name: Split) -> tuple[Utterance, ...]:
        """One split of the recipe's data; what is no good is named, and left out or fatal as the recipe says."""
        if name not in self._splits:
            self._splits[name] = self._load(self.recipe.data, name)
        return self._splits[name]

    @cached_property
    def _splits(self) -> dict[Split | int, tuple[Utterance, ...]]:
        """Those of the recipe's data by name, samples of its out-of-domain data by size."""
        return {}

    def _other(self, n: int) -> tuple[Utterance, ...]:
        data = self.recipe.out_of_domain
        if data is None:
            raise RecipeError(f"{self.recipe.name} names no out-of-domain data")
        if n not in self._splits:
            self._splits[n] = self._load(data.model_copy(update={"n_train": n}), "train")
        return self._splits[n]

    def _load(self, data: Data, name: Split) -> tuple[Utterance, ...]:
        corpus = dataset.load(data, self.recipe.language, name)
        if data.source != "pocket" or data.max_s < WINDOW_S:  # pocket's sound is made here: never broken, or longer
            corpus = self._heard(corpus, data)
        console = self.progress.console
        for problem in corpus.problems:
            console.print(f"[yellow]left out: {escape(str(problem))}", highlight=False)
        if corpus.problems:
            console.print(f"{corpus.name}: {len(corpus.problems)} left out, {len(corpus.utterances)} are used")
        return corpus.utterances

    def _heard(self, corpus: Corpus, data: Data) -> Corpus:
        """A corpus without what only decoding shows to be no good; what is in order is decoded once for all runs."""
        file = self.cache / f"heard-{data.max_s:g}s.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        # a line that a kill cut off is no sound's key
        known = set(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else set()
        reading = dataset.Reading(corpus, data, known.__contains__)
        task = self.progress.add_task(f"{corpus.name}: listening", total=len(corpus.utterances))
        with file.open("a", encoding="utf-8") as heard:
            for utterance, _ in reading:
                heard.write(f"\n{utterance.audio.key}")
                self.progress.advance(task)
        self.progress.update(task, completed=len(corpus.utterances))
        return reading.corpus

    @property
    def cache(self) -> Path:
        """Encoded audio."""
        return self.work / "audio"

    def place(self, number: int, stage: str) -> Path:
        """The directory of a stage, by its number, counted from 1, and its name."""
        return self.work / self.recipe.name / f"{number:02d}-{stage}"
