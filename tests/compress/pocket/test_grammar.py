"""Drawing sentences, reporting mistakes in grammar files, and the shipped grammars as a whole."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from compress.pocket import grammar
from compress.pocket.corpus import normalise
from compress.pocket.grammar import DOMAINS, FRAMES_DIR, Frame, count_fillings, draw, load_domain, load_file
from compress.pocket.lexicon import ARTICLE_MARK, GrammarError

FILES = sorted(FRAMES_DIR.glob("*/*.yaml"))

LEXICON = """
lexicon:
  dish:
    noun:
      - soup ; f Suppe/Suppen ; 碗 汤
      - fish/fish ; m Fisch/Fische ; 条 鱼
      - egg ; n Ei/Eier ; 个 鸡蛋
  taste:
    adjective:
      - hot ; heiß ; 热
      - expensive ; teuer/teur ; 贵
  wish:
    phrase:
      - I want {dish.a} ; ich möchte {dish.ein.acc} | möchte ich {dish.ein.acc} ; 我要一{dish.m}{dish}
      - I am tired ; ich bin müde | bin ich müde ; 我累了
"""


def write(directory: Path, text: str) -> Path:
    path = directory / "menu.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def frames(directory: Path, text: str) -> list[Frame]:
    return load_file(write(directory, LEXICON + "frames:\n" + text), "daily")


def all_sentences(frame: Frame) -> dict[str, tuple[str, str]]:
    drawn = [draw(frame, random.Random(seed)) for seed in range(300)]
    return {sentence.en: (sentence.de, sentence.zh) for sentence in drawn}


# --- drawing ----------------------------------------------------------------------------------------------------


def test_the_same_entry_fills_all_three_languages(tmp_path: Path) -> None:
    (frame,) = frames(
        tmp_path,
        "  - {en: 'Could I have {dish.a:taste}?', de: 'Könnte ich {dish.ein.acc:taste} haben?', "
        "zh: '给我一{dish.m}{taste}的{dish}。'}",
    )
    assert all_sentences(frame) == {
        "Could I have a hot soup?": ("Könnte ich eine heiße Suppe haben?", "给我一碗热的汤。"),
        "Could I have a hot fish?": ("Könnte ich einen heißen Fisch haben?", "给我一条热的鱼。"),
        "Could I have a hot egg?": ("Könnte ich ein heißes Ei haben?", "给我一个热的鸡蛋。"),
        "Could I have an expensive soup?": ("Könnte ich eine teure Suppe haben?", "给我一碗贵的汤。"),
        "Could I have an expensive fish?": ("Könnte ich einen teuren Fisch haben?", "给我一条贵的鱼。"),
        "Could I have an expensive egg?": ("Könnte ich ein teures Ei haben?", "给我一个贵的鸡蛋。"),
    }
    assert count_fillings(frame) == 6


def test_a_numbered_slot_is_another_entry(tmp_path: Path) -> None:
    (frame,) = frames(tmp_path, "  - {en: '{dish} and {dish#2}', de: '{dish} und {dish#2}', zh: '{dish}和{dish#2}'}")
    found = all_sentences(frame)
    assert len(found) == 6
    assert all(len(set(normalise(sentence).split(" and "))) == 2 for sentence in found)


def test_phrases_may_hold_slots_and_columns(tmp_path: Path) -> None:
    (frame,) = frames(tmp_path, "  - {en: 'Today {wish}.', de: 'Heute {wish.2}.', zh: '今天{wish}。'}")
    found = all_sentences(frame)
    assert len(found) == count_fillings(frame) == 4
    assert found["Today I am tired."] == ("Heute bin ich müde.", "今天我累了。")
    assert found["Today I want an egg."] == ("Heute möchte ich ein Ei.", "今天我要一个鸡蛋。")


def test_paraphrases_share_key_and_translations(tmp_path: Path) -> None:
    (frame,) = frames(
        tmp_path,
        "  - {en: ['{dish.a}, please.', 'Please, {dish.a}.'], de: 'Bitte {dish.ein.acc}.', zh: '请给我{dish}。'}",
    )
    drawn = [draw(frame, random.Random(seed)) for seed in range(60)]
    by_key: dict[str, set[str]] = {}
    for sentence in drawn:
        by_key.setdefault(sentence.key, set()).add(sentence.en)
    assert by_key["A soup, please."] == {"A soup, please.", "Please, a soup."}
    assert len({(s.key, s.de, s.zh) for s in drawn}) == len(by_key) == 3


def test_articles_contract_and_sentences_start_with_a_capital(tmp_path: Path) -> None:
    (frame,) = frames(tmp_path, "  - {en: 'in the {dish}', de: 'in {dish.der.dat}', zh: '在{dish}里'}")
    assert {de for de, _ in all_sentences(frame).values()} == {"In der Suppe", "Im Fisch", "Im Ei"}


def test_a_draw_follows_its_seed_alone(tmp_path: Path) -> None:
    (frame,) = frames(tmp_path, "  - {en: '{dish} {dish#2}', de: '{dish} {dish#2}', zh: '{dish}{dish#2}'}")
    assert [draw(frame, random.Random(i)) for i in range(9)] == [draw(frame, random.Random(i)) for i in range(9)]


# --- mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ("{en: 'The {dish', de: '{dish}', zh: '{dish}'}", "unreadable slot in 'The {dish'"),
        ("{en: 'The {dish}', de: 'Das', zh: '{dish}'}", "slots of 'Das' are [], of the first English ['dish']"),
        ("{en: ['{dish}', 'The {taste}'], de: '{dish}', zh: '{dish}'}", "slots of 'The {taste}' are ['taste']"),
        ("{en: '{drink}', de: '{drink}', zh: '{drink}'}", "unknown categories ['drink']; known: big_number"),
        ("{en: '{dish}', de: '{dish.abl}', zh: '{dish}'}", "does not render: German noun slot: unknown ['abl']"),
        ("{en: '{dish:city}', de: '{dish:city}', zh: '{dish}{city}'}", "'city' is no adjective category"),
        ("{en: '{wish}', de: '{wish.3}', zh: '{wish}'}", "has de columns 1 to 2, not 3"),
    ],
)
def test_a_mistake_in_a_frame_is_explained(tmp_path: Path, frame: str, message: str) -> None:
    with pytest.raises(GrammarError) as caught:
        frames(tmp_path, f"  - {frame}")
    assert message in str(caught.value)
    assert "frame 0" in str(caught.value)
    assert "menu.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("lexicon", "message"),
    [
        ("  city: {phrase: [a ; b ; c]}", "category 'city' exists already (shared lexicon)"),
        ("  dish: [a ; b ; c]", "category 'dish': expected one of noun:, adjective:, phrase: with a list"),
        ("  dish: {noun: [a ; b ; c], phrase: [a ; b ; c]}", "expected one of noun:, adjective:, phrase:"),
        ("  dish: {noun: [soup]}", "dish: 'soup': expected 'English ; German ; Chinese'"),
        ("  dish: {verb: [go ; gehen ; 去]}", "dish: unknown kind 'verb'"),
    ],
)
def test_a_mistake_in_a_lexicon_is_explained(tmp_path: Path, lexicon: str, message: str) -> None:
    with pytest.raises(GrammarError) as caught:
        load_file(write(tmp_path, f"lexicon:\n{lexicon}\n"), "daily")
    assert message in str(caught.value)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    text = """
lexicon:
  dish: {noun: [soup, bread ; n Brot ; 块 面包]}
frames:
  - {en: 'A {drink}', de: '{drink}', zh: '{drink}'}
  - {en: 'A {', de: 'B', zh: 'C'}
"""
    with pytest.raises(GrammarError) as caught:
        load_file(write(tmp_path, text), "daily")
    for message in ("'soup'", "singular/plural", "frame 0", "frame 1"):
        assert message in str(caught.value)


def test_an_unknown_domain_is_explained() -> None:
    with pytest.raises(GrammarError, match="unknown domain 'news'; valid: talks, daily, phone"):
        load_domain("news")


# --- the grammars that are shipped ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_grammar_renders_well(path: Path) -> None:
    for frame in load_file(path, path.parent.name):
        for seed in range(20):
            sentence = draw(frame, random.Random(seed))
            for text in (sentence.en, sentence.de, sentence.zh):
                assert not re.search(r"[{}|;\x02]|  |^\s|\s$", text.replace(";", "")), (frame.name, text)
                assert ARTICLE_MARK not in text
            assert sentence.en.replace("é", "e").isascii(), (frame.name, sentence.en)
            assert not re.search(r"\d", sentence.en), (frame.name, sentence.en)
            assert re.search(r"[.!?]$", sentence.en), (frame.name, sentence.en)
            assert re.search(r"[.!?]$", sentence.de), (frame.name, sentence.de)
            assert re.search(r"[。！？]$", sentence.zh), (frame.name, sentence.zh)
            assert not re.search(r"[,?!]|[a-z]{12}", sentence.zh), (frame.name, sentence.zh)


def test_every_domain_has_files_and_no_file_is_outside_a_domain() -> None:
    assert {path.parent.name for path in FILES} == set(DOMAINS)


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_domain_is_wide(domain: str) -> None:
    found = load_domain(domain)
    assert len(found) >= 100
    assert sum(count_fillings(frame) for frame in found) > 5_000_000


def test_the_domains_together_hold_two_thousand_english_words() -> None:
    words: set[str] = set()
    for domain in DOMAINS:
        for frame in load_domain(domain):
            words |= set(normalise(grammar._all_english(frame)).split())
    assert len(words) >= 2_000


def sample(n_per_frame: int) -> dict[str, set[tuple[str, str, str]]]:
    """English sentence, as it sounds, to the frames and translations it was drawn with."""
    found: dict[str, set[tuple[str, str, str]]] = {}
    for domain in DOMAINS:
        for frame in load_domain(domain):
            for number in range(n_per_frame):
                drawn = draw(frame, random.Random(f"{frame.name}-{number}"))
                found.setdefault(normalise(drawn.en), set()).add((drawn.de, drawn.zh, frame.name))
    return found


def test_no_english_sentence_has_two_translations() -> None:
    found = sample(60)
    assert len(found) > 15_000
    twofold = {en: rows for en, rows in found.items() if len({(de, zh) for de, zh, _ in rows}) > 1}
    assert not twofold, "\n".join(f"{en}: {rows}" for en, rows in list(twofold.items())[:20])
