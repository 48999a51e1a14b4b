"""The live tab: a microphone, and the translation that grows while somebody speaks."""

from __future__ import annotations

from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import gradio as gr
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException

from serve.client import ApiError, Client
from serve.errors import InvalidField
from serve.live.pcm import decode_pcm
from serve.live.policies import Policy
from serve.page import controls
from serve.page.cards import empty_card, heading, sentence
from serve.page.speakers import Answer, Speakers
from serve.page.variants import refusal
from serve.settings import Settings

_INVITATION: Final = "Press Start and speak English. The translation appears here while you speak."
_POLICIES: Final[tuple[tuple[str, Policy], ...]] = (
    ("After each pause", "segment"),
    ("While you speak", "agreement"),
)
_RATES: Final = range(8_000, 192_001)  # Hz, of microphones
_MICROPHONE: Final = """
<div class="k-mic">
  <button type="button">
    <svg viewBox="0 0 24 24" aria-hidden="true">
      <path d="M12 3a3 3 0 0 0-3 3v6a3 3 0 0 0 6 0V6a3 3 0 0 0-3-3zM5.5 11.5a6.5 6.5 0 0 0 13 0M12 18v3" />
    </svg>
    <span class="k-mic-label">Start</span>
  </button>
  <span class="k-mic-status" role="status"></span>
</div>
"""


class _Words(BaseModel):
    """What the browser sends again and again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    session: str
    audio: str
    end: bool


def live_tab(client: Client, settings: Settings) -> gr.Dropdown:
    """Builds the tab; returns the choice of models, for whoever knows them to fill."""
    speakers = Speakers()

    async def converse(given: dict[str, Any]) -> Answer:
        words, pcm = _read(given)
        speaker = speakers.find(words.session)
        if speaker is None:
            return Answer(text="", error="The session is over.", over=True)
        return await speaker.converse(pcm, end=words.end)

    with gr.Row():
        with gr.Column(scale=5, min_width=300):
            microphone = gr.HTML(
                html_template=_MICROPHONE,
                js_on_load=Path(__file__).with_name("microphone.js").read_text(encoding="utf-8"),
                server_functions=[converse],
                apply_default_css=False,
                elem_id="microphone",
                opened={},
            )
            language = controls.target_language("live-language", settings.to_language)
            policy = gr.Radio(list(_POLICIES), value=settings.live_policy, label="Text appears", elem_id="live-policy")
            model = controls.model("live-model")
        with gr.Column(scale=6, min_width=320):
            gr.HTML(empty_card(_INVITATION), elem_id="live-text")
    session = gr.State("")

    async def begin(language: str, policy: str, model: str, event: gr.EventData) -> tuple[Any, str]:
        """Opens a session for a browser that has begun to record."""
        try:
            rate = int(event.rate)
            if rate not in _RATES:
                raise ApiError(400, f"a microphone with {rate} Hz cannot be used")
            if (trouble := refusal(await client.models(), model, language)) is not None:
                raise trouble
            token = speakers.admit(await client.live(model, language, policy), rate)
        except ApiError as error:
            # no two are the same, or the browser would not see that there is another
            why = {"attempt": token_hex(), "heading": heading(error, error.wait_s), "error": sentence(error)}
            return gr.HTML(opened=why), ""
        return gr.HTML(opened={"session": token, "language": language}), token

    async def change(language: str, token: str) -> None:
        """Has what is said from here on translated into another language."""
        if (speaker := speakers.find(token)) is not None:
            await speaker.translate_into(language)

    quiet: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
    microphone.begin(begin, [language, policy, model], [microphone, session], **quiet)
    language.input(change, [language, session], **quiet)
    return model


def _read(given: object) -> tuple[_Words, bytes]:
    """What a browser sent, and the sound in it.

    Raises:
        HTTPException: the page's own script would not send it.
    """
    try:
        words = _Words.model_validate(given)
        return words, decode_pcm(words.audio)
    except (ValidationError, InvalidField) as error:
        raise HTTPException(400, "not what this page sends") from error
