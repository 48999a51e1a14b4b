"""One translation as the page watches it, and how a tab begins one anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import gradio as gr

from serve.client import ApiError, Client, Ended

_LOOK_S: Final = 0.1  # between two updates: every one costs the machine that is translating


@dataclass
class Run:
    """A translation: its text so far; and its end, or what went wrong."""

    text: str = ""
    ended: Ended | None = None
    error: ApiError | None = None


async def follow(client: Client, recording: Path, model: str, language: str) -> AsyncGenerator[Run, None]:
    """Has a recording translated; yields the run whenever it has changed, and last when it is over.

    Closing the generator cancels the translation.
    """
    run = Run()
    task = asyncio.create_task(_translate(run, client, recording, model, language))
    try:
        seen = ""
        while not task.done():
            await asyncio.wait({task}, timeout=_LOOK_S)
            if run.text != seen and not task.done():
                seen = run.text
                yield run
        await task
        yield run
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _translate(run: Run, client: Client, recording: Path, model: str, language: str) -> None:
    try:
        with await asyncio.to_thread(recording.open, "rb") as audio:
            async with aclosing(client.translate(audio, model, language)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Ended):
                        run.text, run.ended = piece.text, piece
                    else:
                        run.text += piece
    except ApiError as error:
        run.error = error
    except FileNotFoundError:
        run.error = ApiError(0, "the recording is not kept here any more; upload it again")


def begin_on(
    triggers: Sequence[Any],
    function: Callable[..., Any],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
    concurrency: int,
) -> gr.events.Dependency:
    """Runs a generator function on each of the triggers; of one that is still going, nothing more is seen.

    Gradio has listeners that cancel others, but none that cancels itself: so each trigger draws a lot, and it is the
    lot's change that begins a run.
    """
    lot = gr.State("")
    run = lot.change(
        function,
        inputs=inputs,
        outputs=outputs,
        show_progress="hidden",
        trigger_mode="always_last",
        concurrency_limit=concurrency,
        api_visibility="private",
    )
    # before the next: listeners of one trigger are called in the order in which they are made
    gr.on(triggers, None, cancels=[run])
    gr.on(
        triggers,
        token_hex,
        [],
        [lot],
        show_progress="hidden",
        trigger_mode="multiple",
        concurrency_limit=None,
        api_visibility="private",
    )
    return run
