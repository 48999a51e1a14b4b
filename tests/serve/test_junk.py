"""Hundreds of damaged recordings: each is answered, none is the server's fault, and nothing of them stays."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import gettempdir

import httpx
import psutil
import pytest

from compress.audio import decode
from tests.serve.junk import MUTATIONS, mutations, recordings
from tests.serve.servers import ScriptedTranslator, running, settings_for_tests, wait_until

PATH = "/v1/audio/translations"
N = 504  # six of every kind for each of seven containers
ANSWERS = {200, 400, 413, 415}
LONGEST_S = 20  # for one file, on a busy machine


@pytest.fixture(scope="module")
def originals(clip: Path) -> dict[str, bytes]:
    return recordings(decode(clip))


def test_the_corpus_is_of_all_kinds_and_all_containers(originals: dict[str, bytes]) -> None:
    files = dict(mutations(originals, N, seed=0))
    assert len(files) == N == 6 * len(MUTATIONS) * len(originals)
    assert len(set(files.values())) > 0.95 * N
    assert len(set(files.values()) & set(originals.values())) < 0.02 * N, "few are as they were"


def test_junk_is_answered_and_leaves_nothing_behind(originals: dict[str, bytes]) -> None:
    process = psutil.Process()
    answers: Counter[int] = Counter()
    engine = ScriptedTranslator("Hallo")

    def resources() -> tuple[int, int, int]:
        gc.collect()
        temporary = len(list(Path(gettempdir()).glob("kompakt*")))
        return process.num_fds(), threading.active_count(), temporary

    with running(settings_for_tests(), engine) as server, httpx.Client(base_url=server.url, timeout=LONGEST_S) as http:

        def post(name: str, data: bytes) -> None:
            response = http.post(PATH, files={"file": ("a.wav", data)}, data={"model": "scripted"})
            answers[response.status_code] += 1
            assert response.status_code in ANSWERS, f"{name}: {response.text}"
            if response.status_code != 200:
                assert response.json()["error"]["code"], name

        def post_all(seed: int) -> None:
            with ThreadPoolExecutor(4) as clients:
                list(clients.map(lambda pair: post(*pair), mutations(originals, N // 2, seed)))

        def leaves_something(seed: int) -> bool:
            before = resources()
            post_all(seed)
            wait_until(lambda: server.metric("st_inflight_requests") == 0 and engine.n_running == 0)
            return any(now > then for now, then in zip(resources(), before, strict=True))

        post_all(seed=1)
        memory = process.memory_info().rss
        # A pool of threads grows now and then until it is full; what leaks grows every time.
        assert not all(leaves_something(seed) for seed in range(2, 8))
        assert process.memory_info().rss - memory < 50e6
        assert server.metric("st_requests_total", outcome="error") == 0
        assert http.post(PATH, files={"file": originals["opus"]}, data={"model": "scripted"}).status_code == 200
    assert answers[200] > 0.05 * N, "some damage can be heard through"
    assert answers[400] + answers[415] > 0.3 * N
