"""Token ids in, text out, without ever showing part of a character."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE's alphabet (GPT-2's, Qwen2's): printable bytes are themselves, others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTES: Final = _byte_of_character()


class TextStream:
    """The text of one row, one token at a time.

    A byte-level token may end inside a character; such bytes wait for the rest, and bytes that never become a
    character are left out.  Special tokens and the space around the text are not shown.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._space = ""  # held back until something follows it
        self._text = ""

    @property
    def text(self) -> str:
        """All that `push` has returned, joined."""
        return self._text

    def push(self, token_id: int) -> str:
        """Adds a token; returns the text that is now complete, possibly empty."""
        if token_id in self._special:
            return ""
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        piece = self._space + self._decoder.decode(bytes(_BYTES[character] for character in token))
        if not self._text:
            piece = piece.lstrip()
        visible = piece.rstrip()
        self._space = piece[len(visible) :]
        self._text += visible
        return visible
