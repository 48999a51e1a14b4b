"""The stages of a recipe: what each of them can be told, and which of its settings contradict each other."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from compress.validation import Strict, refuse
from compress.weights import schemes

Part = Literal["tower", "projector", "decoder", "embeddings", "lm_head"]
Metric = Literal["chrF", "chrF++", "BLEU", "COMET"]

CALIBRATED: Final = ("w4a16", "int8")
CALIBRATION: Final = 128  # utterances, where nothing else is said

COMET_MODEL: Final = "Unbabel/wmt20-comet-da"  # the paper's (section 5)


class Mix(Strict):
    """Training data of one stage.

    Attributes:
        in_domain: how often the references of the main data are repeated; 0 leaves them out.
        distilled: how often the teacher's translations are repeated, from an earlier `distill` stage.
        out_of_domain: utterances of the recipe's `out_of_domain` data to add.
    """

    in_domain: int = Field(1, ge=0)
    distilled: int = Field(0, ge=0)
    out_of_domain: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        refuse([] if self.in_domain or self.distilled or self.out_of_domain else ["the mix is empty"])
        return self


class Optimisation(Strict):
    """How weights are trained; the defaults are the paper's (section 3.1).

    Attributes:
        epochs, batch_size: passes over the mix, utterances a step over all devices.
        accumulation: forward passes a step; divides `batch_size`.
        learning_rate: peak of a cosine schedule.
        warmup_ratio: share of the steps with rising rate.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to it.
        master_weights: `fp32` trains fp32 weights under bf16 autocast, `bf16` loads and steps in bf16 (most steps of
            1e-5 round away), `fp32-only` never leaves fp32.
        gradient_checkpointing: recompute activations, less memory.
        save_every: steps between two resumable states.
        seed: of order and dropout.
    """

    epochs: PositiveInt = 3
    batch_size: PositiveInt = 4
    accumulation: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-5
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: PositiveFloat = 1.0
    master_weights: Literal["fp32", "bf16", "fp32-only"] = "fp32"
    gradient_checkpointing: bool = False
    save_every: PositiveInt = 100
    seed: int = 0

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.batch_size % self.accumulation:
            refuse([f"accumulation {self.accumulation} must divide batch_size {self.batch_size}"])
        return self


class _Stage(Strict):
    """What every stage has.

    Attributes:
        name: how later stages and result files call it; the verb when absent.
        source: the stage whose checkpoint it starts from; the one before when absent.
    """

    name: str = Field("", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    source: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_verb(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("name"):
            return values | {"name": values.get("stage", cls.model_fields["stage"].default)}
        return values


class Finetune(_Stage):
    """Full fine-tuning of all parts that are not frozen."""

    stage: Literal["finetune"] = "finetune"
    mix: Mix = Mix()
    optimisation: Optimisation = Optimisation(weight_decay=0.001)
    frozen: tuple[Part, ...] = ()


class Prune(_Stage):
    """Removal of whole layers.

    Attributes:
        strategy: `greedy` (remove, score, repeat), `middle` (a contiguous block) or `block-influence` (ShortGPT).
        part: where layers are removed.
        n_remove: how many.
        metric: of `greedy`; absent, chrF++ for German and chrF for Chinese, as in the paper.
        comet_model: of metric COMET: a name on the hub, or the path of a `.ckpt` file; when absent, the recipe's, or
            else the paper's.
        mode: of `greedy`: `naive`, `exact` or `fast`; the first two choose the same layers.
        protected: layers that are never candidates, negative ones from the end.
        recovery: fine-tuning after every removal (the paper's section 4.4).
        workers: processes that score candidates; more than one need Ray.
    """

    stage: Literal["prune"] = "prune"
    strategy: Literal["greedy", "middle", "block-influence"] = "greedy"
    part: Literal["decoder", "tower"] = "decoder"
    n_remove: PositiveInt
    metric: Metric | None = None
    comet_model: str = COMET_MODEL
    mode: Literal["naive", "exact", "fast"] = "exact"
    protected: tuple[int, ...] = (0, -1)
    recovery: Optimisation | None = None
    workers: PositiveInt = 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.strategy != "greedy":
            chosen = self.model_fields_set & {"metric", "mode", "workers", "recovery"}
            problems += [f"{name} is for strategy greedy" for name in sorted(chosen)]
        if self.strategy == "middle" and "protected" in self.model_fields_set:
            problems.append("protected is for strategies greedy and block-influence")
        if self.part == "tower" and self.mode == "fast":
            problems.append("mode fast is for the decoder")
        if "comet_model" in self.model_fields_set and self.metric != "COMET":
            problems.append("comet_model is for metric COMET")
        if self.mode == "fast" and self.metric in ("BLEU", "COMET"):
            problems.append(f"mode fast compares parts of the corpus, over which {self.metric} does not add up")
        if self.mode == "fast" and self.workers > 1:
            problems.append("mode fast compares all candidates as it goes: it has one worker")
        refuse(problems)
        return self


class Distill(_Stage):
    """The teacher translates the training audio; the checkpoint passes through unchanged.

    Attributes:
        teacher: the stage whose model translates.
        min_chrf: keep a label only if its sentence chrF against the reference reaches this.
    """

    stage: Literal["distill"] = "distill"
    teacher: str
    min_chrf: float | None = Field(None, ge=0, le=100)


class Qlora(_Stage):
    """Low-rank adapters over a quantised model; `quantisation: none` is plain LoRA."""

    stage: Literal["qlora"] = "qlora"
    mix: Mix = Mix()
    optimisation: Optimisation = Optimisation(epochs=4, weight_decay=0.0, master_weights="bf16")
    quantisation: Literal["nf4", "none"] = "nf4"
    double_quantisation: bool = True
    rank: PositiveInt = 64
    alpha: PositiveInt = 128
    dropout: float = Field(0.0, ge=0, lt=1)
    rank_stabilised: bool = True
    modules: Literal["all", "decoder"] = "all"


class Export(_Stage):
    """Writes the checkpoint as it is shipped.

    Attributes:
        layout: `paper`, bit for bit what the paper stored; `compact`, the rest in bf16; `bf16`, plain weights; and what
            vLLM has kernels for, the decoder's weights in 4 or 8 bits: `w4a16`, `int8`, `fp8`.
        merge: add the adapter to the weights, as vLLM's layouts need it.
        modules: of `compact`: what is in nf4, all, or the decoder alone, as vLLM can load it.
        calibration: of `w4a16` and `int8`: utterances of the training data from which GPTQ learns how to round.
        embeddings: of vLLM's layouts: embeddings and lm_head plain, or in `int8`, which vLLM takes on CUDA GPUs alone.
    """

    stage: Literal["export"] = "export"
    layout: Literal["bf16", "paper", "compact", "w4a16", "int8", "fp8"] = "compact"
    merge: bool = False
    # left out where they say nothing, so that what was exported before there was a choice is not made anew
    modules: Literal["all", "decoder"] = Field("all", exclude_if=lambda value: value == "all")
    calibration: PositiveInt | None = Field(None, exclude_if=lambda value: value is None)
    embeddings: schemes.Embeddings = Field("bf16", exclude_if=lambda value: value == "bf16")

    @property
    def n_calibration(self) -> int:
        """Utterances that it reads of the training data."""
        return (self.calibration or CALIBRATION) if self.layout in CALIBRATED else 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.calibration is not None and self.layout not in CALIBRATED:
            problems.append(f"calibration is for layouts {' and '.join(CALIBRATED)}")
        if self.embeddings == "int8" and self.layout not in schemes.LAYOUTS:
            problems.append(f"embeddings int8 are for layouts {', '.join(schemes.LAYOUTS)}")
        refuse(problems)
        return self


Stage = Annotated[Finetune | Prune | Distill | Qlora | Export, Field(discriminator="stage")]
