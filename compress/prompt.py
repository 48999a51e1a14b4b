"""The prompt the translator is asked with, and the languages it is asked for.

The wording is the paper's (section 3.1) in Qwen2-Audio's chat format.  The audio stands before the
instruction, so everything up to the end of the audio is the same for all target languages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from compress.errors import LanguageError

SYSTEM: Final = "You are a professional translator."
AUDIO_TOKEN: Final = "<|AUDIO|>"
END_OF_TURN: Final = "<|im_end|>"

# the chat format, or a line to go on with, as a model is asked that has not been taught to chat
Style = Literal["instruct", "base"]


@dataclass(frozen=True)
class Language:
    """A target language: ISO 639-1 code, English name, what joins two translated segments."""

    code: str
    name: str
    joiner: str


LANGUAGES: Final = {
    "de": Language("de", "German", " "),
    "zh": Language("zh", "Chinese", ""),
}


@dataclass(frozen=True)
class Prompt:
    """A prompt cut at the audio: text before the audio's embeddings, and text after them."""

    before: str
    after: str

    @property
    def text(self) -> str:
        """The whole prompt with one audio placeholder, as the processor expects it."""
        return self.before + AUDIO_TOKEN + self.after


def language(code: str) -> Language:
    """Looks a target language up by its code.

    Raises:
        LanguageError: not offered; the message names the codes that are.
    """
    try:
        return LANGUAGES[code]
    except KeyError:
        raise LanguageError(f"unsupported target language {code!r}; supported: {', '.join(LANGUAGES)}") from None


def instruction(code: str) -> str:
    """What the model is told to do."""
    return f"Translate the English speech into {language(code).name}:"


def translation(code: str, style: Style = "instruct") -> Prompt:
    """The prompt that asks for a translation of English speech into language `code`."""
    asked = instruction(code)
    if style == "base":
        return Prompt(before="<|audio_bos|>", after=f"<|audio_eos|>{asked}")
    return Prompt(
        before=f"<|im_start|>system\n{SYSTEM}{END_OF_TURN}\n<|im_start|>user\nAudio 1: <|audio_bos|>",
        after=f"<|audio_eos|>\n{asked}{END_OF_TURN}\n<|im_start|>assistant\n",
    )
