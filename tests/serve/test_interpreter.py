"""Several stretches of speech at a time, and their text in order."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from compress.audio import SAMPLE_RATE, Samples
from compress.errors import CorruptAudio
from serve.engine import Result, Timings
from serve.errors import EngineFailed
from serve.interpreter import Passage, interpret
from serve.recording import Heard, Recording
from tests.compress.containers import encode
from tests.serve.servers import PATIENCE_S
from tests.serve.speech import sentences, silence, talk, wav

T = TypeVar("T")
Say = Callable[[int], Awaitable[list[str]]]


class Speaker:
    """Translates the n-th stretch that it is given into what `say` makes of n."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.n_asked = 0
        self.n_running = 0
        self.most_running = 0

    async def translate(self, samples: Samples) -> AsyncGenerator[str | Result, None]:
        number = self.n_asked
        self.n_asked += 1
        self.n_running += 1
        self.most_running = max(self.most_running, self.n_running)
        try:
            pieces = await self._say(number)
            for piece in pieces:
                await asyncio.sleep(0)
                yield piece
            yield Result("".join(pieces), 10, len(pieces), Timings(0.1, None, 0.2))
        finally:
            self.n_running -= 1


async def numbers(number: int) -> list[str]:
    return [f"{number}", f"{number}."]


async def forever(_: int) -> list[str]:
    await asyncio.Event().wait()
    return []


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what happens in other tasks and threads."""
    while not condition():  # noqa: ASYNC110 - some of it is in no task
        await asyncio.sleep(0.01)


def run(work: Awaitable[T]) -> T:
    async def patiently() -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await work

    return asyncio.run(patiently())


async def told(
    speaker: Speaker, data: bytes, ahead: int = 3, joiner: str = " "
) -> tuple[list[Heard | str | Passage], io.BytesIO]:
    """All that is told of a recording, and its file."""
    file = io.BytesIO(data)
    return [event async for event in interpret(Recording(file), speaker.translate, ahead, joiner)], file


async def told_until(
    error: type[Exception], speaker: Speaker, data: bytes
) -> tuple[list[Heard | str | Passage], io.BytesIO]:
    """The same of a recording whose translation ends with an error."""
    file = io.BytesIO(data)
    events: list[Heard | str | Passage] = []
    try:
        async for event in interpret(Recording(file), speaker.translate, 3, " "):
            events.append(event)  # noqa: PERF401 - what came before the error counts
    except error:
        return events, file
    pytest.fail(f"no {error.__name__}")


def text(events: list[Heard | str | Passage]) -> str:
    return "".join(event for event in events if isinstance(event, str))


@pytest.fixture(scope="module")
def said(clips: list[Path]) -> list[Samples]:
    return sentences(clips)


@pytest.fixture(scope="module")
def long_talk(said: list[Samples]) -> bytes:
    """A dozen sentences, together longer than the encoder's window."""
    return wav(talk(said * 3, 1.5)[0])


@pytest.mark.parametrize(("joiner", "wanted"), [(" ", " ".join), ("", "".join)])
def test_text_is_told_in_order_and_joined(long_talk: bytes, joiner: str, wanted: Callable[[list[str]], str]) -> None:
    events, file = run(told(Speaker(numbers), long_talk, joiner=joiner))
    assert text(events) == wanted([f"{n}{n}." for n in range(12)])
    passages = [event for event in events if isinstance(event, Passage)]
    assert [passage.result.text for passage in passages] == [f"{n}{n}." for n in range(12)]
    assert all(one.end_s <= other.start_s for one, other in pairwise(passages))
    assert isinstance(events[0], Heard), "something is heard before there is text"
    assert max(event.audio_s for event in events if isinstance(event, Heard)) > 30
    assert file.closed


def test_later_ones_are_translated_while_the_first_still_is(long_talk: bytes) -> None:
    async def scenario() -> None:
        third_is_done = asyncio.Event()

        async def say(number: int) -> list[str]:
            if number < 2:
                await third_is_done.wait()
            elif number == 2:
                third_is_done.set()
            return await numbers(number)

        speaker = Speaker(say)
        events, _ = await told(speaker, long_talk)
        assert text(events).startswith("00. 11. 22.")
        assert speaker.most_running == 3, "as many as allowed, and no more"

    run(scenario())


def test_no_further_is_heard_than_there_is_room(long_talk: bytes) -> None:
    async def scenario() -> None:
        speaker = Speaker(forever)
        waiting = asyncio.create_task(told(speaker, long_talk))
        await until(lambda: speaker.n_running == 3)
        await asyncio.sleep(0.2)
        assert speaker.n_asked == 3
        waiting.cancel()

    run(scenario())


def test_an_empty_text_takes_no_joiner(long_talk: bytes) -> None:
    async def say(number: int) -> list[str]:
        return [] if number in (0, 2, 11) else [f"{number}"]

    events, _ = run(told(Speaker(say), long_talk))
    assert text(events) == "1 3 4 5 6 7 8 9 10"


def test_without_speech_nobody_is_asked() -> None:
    speaker = Speaker(numbers)
    events, file = run(told(speaker, wav(silence(35))))
    assert all(isinstance(event, Heard) for event in events)
    assert speaker.n_asked == 0
    assert file.closed


def test_one_sentence_is_translated_while_it_is_searched_for(said: list[Samples]) -> None:
    speaker = Speaker(numbers)
    events, _ = run(told(speaker, wav(talk(said[:1], 0.4)[0])))
    assert text(events) == "00."
    assert speaker.n_asked == 1
    (passage,) = (event for event in events if isinstance(event, Passage))
    assert passage.start_s > 0.1, "where the search has found it"


@pytest.mark.parametrize("room", [1, 3])
def test_a_wrong_guess_is_given_up(said: list[Samples], room: int) -> None:
    async def scenario() -> None:
        async def say(number: int) -> list[str]:
            return await (numbers(number) if number else forever(number))

        speaker = Speaker(say)
        events, _ = await told(speaker, wav(talk(said[:2], 0.8)[0]), ahead=room)
        assert text(events) == "11. 22.", "the first one asked for was all of it"
        assert speaker.n_running == 0

    run(scenario())


def test_a_guess_that_no_speech_follows_is_given_up_in_silence() -> None:
    async def say(number: int) -> list[str]:
        raise EngineFailed("the engine failed")

    speaker = Speaker(say)
    events, file = run(told(speaker, wav(silence(2))))
    assert events == [Heard(2)]
    assert speaker.n_running == 0
    assert file.closed


def test_a_failure_comes_after_what_was_told_before_it(long_talk: bytes) -> None:
    async def say(number: int) -> list[str]:
        if number == 4:
            raise EngineFailed("the engine failed")
        return await numbers(number)

    async def scenario() -> None:
        speaker = Speaker(say)
        events, file = await told_until(EngineFailed, speaker, long_talk)
        assert text(events) == "00. 11. 22. 33."
        assert speaker.n_running == 0
        await until(lambda: file.closed)

    run(scenario())


def test_a_file_that_breaks_off_gives_its_text_first(said: list[Samples]) -> None:
    whole = talk(said * 4, 1)[0]
    data = bytearray(encode(whole[None].astype(np.float64), SAMPLE_RATE, "opus"))
    # damaged, each page is lost, and so is what it tells of the next
    data[len(data) * 8 // 10 :] = np.random.default_rng(0).bytes(len(data) // 5)
    events, _ = run(told_until(CorruptAudio, Speaker(numbers), bytes(data)))
    assert text(events).startswith("00. 11. 22.")


def test_closing_ends_all_that_was_begun(long_talk: bytes) -> None:
    async def scenario() -> None:
        async def say(number: int) -> list[str]:
            return await forever(number) if number else ["one", "two"]

        file = io.BytesIO(long_talk)
        speaker = Speaker(say)
        async with aclosing(interpret(Recording(file), speaker.translate, 4, " ")) as events:
            async for event in events:
                if event == "one":
                    break
            assert speaker.n_running > 0
        assert speaker.n_running == 0
        await until(lambda: file.closed)
        assert len(asyncio.all_tasks()) == 1

    run(scenario())


def test_cancelling_the_one_who_waits_does_too(long_talk: bytes) -> None:
    async def scenario() -> None:
        speaker = Speaker(forever)
        waiting = asyncio.create_task(told(speaker, long_talk))
        await until(lambda: speaker.n_running == 3)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert speaker.n_running == 0

    run(scenario())
