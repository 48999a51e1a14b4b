"""What the tabs ask of a reader: a recording, a language, a model, and when to begin and to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import gradio as gr

from compress.prompt import LANGUAGES
from serve.page.runs import Turns

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
Shown = Literal["stop", "again", "nothing"]
_ENDONYMS: Final = {"de": "Deutsch", "zh": "中文"}


def recording(name: str, max_bytes: int) -> gr.Audio:
    """Takes a file or the microphone's sound; the value is a path."""
    audio: gr.Audio = gr.Audio(
        label=f"English speech, up to {max_bytes / 1e6:.0f} MB",
        sources=["upload", "microphone"],
        type="filepath",
        editable=False,
        buttons=[],
        elem_id=name,
    )
    _refuse_addresses(audio)
    return audio


def target_language(name: str, chosen: str) -> gr.Radio:
    """One of the languages; the value is its code."""
    choices = [(f"{language.name} · {_ENDONYMS[code]}", code) for code, language in LANGUAGES.items()]
    return gr.Radio(choices, value=chosen, label="Translate into", elem_id=name)


def model(name: str) -> gr.Dropdown:
    """One of the models; `offer` fills it."""
    # A page that outlived its server knows more models than the new session; the API has the last word.
    return gr.Dropdown([], label="Model", elem_id=name, allow_custom_value=True)


def offer(models: Sequence[dict[str, Any]]) -> Any:
    """What `model` shows once the models are known."""
    names = [each["id"] for each in models]
    return gr.Dropdown(choices=names, value=names[0] if names else None, interactive=len(names) > 1)


def examples(audio: gr.Audio) -> None:
    """Recordings that a click puts into `audio`."""
    if clips := sorted(EXAMPLES.glob("*.flac")):
        labels = [title(clip) for clip in clips]
        gr.Examples([[str(clip)] for clip in clips], [audio], example_labels=labels, label="Examples")


def title(example: Path) -> str:
    """What an example is about: its file is called by its kind, then by that."""
    return example.stem.partition("_")[2].replace("_", " ").capitalize()


def stop_and_again(again: str) -> tuple[gr.Button, gr.Button]:
    """The buttons that stop what runs, and begin it again; see `show`."""
    return gr.Button("Stop", size="sm", visible=False), gr.Button(again, size="sm", visible=False)


def show(button: Shown) -> tuple[Any, Any]:
    """Of the two, the one that is of use."""
    return gr.Button(visible=button == "stop"), gr.Button(visible=button == "again")


def on(
    triggers: Sequence[Any],
    function: Callable[..., Any],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
) -> None:
    """Runs a generator function on each of the triggers, at once: those before it are for `Turns` to end."""
    gr.on(
        triggers,
        function,
        inputs=inputs,
        outputs=outputs,
        show_progress="hidden",
        trigger_mode="multiple",
        concurrency_limit=None,  # the API has one, and says so
        api_visibility="private",
    )


def on_stop(button: gr.Button, turns: Turns) -> None:
    """Has a button stop the turn of whoever presses it."""

    def stop(request: gr.Request) -> None:
        turns.stop(str(request.session_hash))

    button.click(stop, queue=False, show_progress="hidden", api_visibility="private")


def _refuse_addresses(audio: gr.Audio) -> None:
    """Makes the input take uploaded files only: Gradio's own would fetch a URL for whoever sends one."""
    keep = audio.async_move_resource_to_block_cache

    async def keep_file(path: str | Path | None) -> str | None:
        if str(path).startswith(("http:", "https:")):
            raise gr.Error("audio is taken as a file, not from an address", print_exception=False)
        return await keep(path)

    # A subclass would do, but Gradio writes a stub file beside the source of every subclass.
    audio.async_move_resource_to_block_cache = keep_file  # type: ignore[assignment, method-assign]
