"""German declension against tables written by hand, and every mistake a lexicon line can hold."""

from __future__ import annotations

import pytest

from compress.pocket.lexicon import (
    ARTICLE_MARK,
    CASES,
    DETERMINERS,
    Adjective,
    GrammarError,
    Noun,
    Phrase,
    contract,
    parse_entry,
)


def noun(line: str) -> Noun:
    entry = parse_entry("noun", line)
    assert isinstance(entry, Noun)
    return entry


def adjective(line: str) -> Adjective:
    entry = parse_entry("adjective", line)
    assert isinstance(entry, Adjective)
    return entry


MAN = noun("man/men ; m Mann/Männer/Mann/Mannes ; 位 男人")
WOMAN = noun("woman/women ; f Frau/Frauen ; 位 女人")
CHILD = noun("child/children ; n Kind/Kinder/Kind/Kindes ; 个 孩子")
OLD = adjective("old ; alt ; 年老")

# From any German grammar: nominative, accusative, dative, genitive of masculine, feminine, neuter, plural.
TABLES = {
    "der": [
        "der alte Mann | den alten Mann | dem alten Mann | des alten Mannes",
        "die alte Frau | die alte Frau | der alten Frau | der alten Frau",
        "das alte Kind | das alte Kind | dem alten Kind | des alten Kindes",
        "die alten Kinder | die alten Kinder | den alten Kindern | der alten Kinder",
    ],
    "dies": [
        "dieser alte Mann | diesen alten Mann | diesem alten Mann | dieses alten Mannes",
        "diese alte Frau | diese alte Frau | dieser alten Frau | dieser alten Frau",
        "dieses alte Kind | dieses alte Kind | diesem alten Kind | dieses alten Kindes",
        "diese alten Kinder | diese alten Kinder | diesen alten Kindern | dieser alten Kinder",
    ],
    "ein": [
        "ein alter Mann | einen alten Mann | einem alten Mann | eines alten Mannes",
        "eine alte Frau | eine alte Frau | einer alten Frau | einer alten Frau",
        "ein altes Kind | ein altes Kind | einem alten Kind | eines alten Kindes",
        "alte Kinder | alte Kinder | alten Kindern | alter Kinder",
    ],
    "kein": [
        "kein alter Mann | keinen alten Mann | keinem alten Mann | keines alten Mannes",
        "keine alte Frau | keine alte Frau | keiner alten Frau | keiner alten Frau",
        "kein altes Kind | kein altes Kind | keinem alten Kind | keines alten Kindes",
        "keine alten Kinder | keine alten Kinder | keinen alten Kindern | keiner alten Kinder",
    ],
    "Ihr": [
        "Ihr alter Mann | Ihren alten Mann | Ihrem alten Mann | Ihres alten Mannes",
        "Ihre alte Frau | Ihre alte Frau | Ihrer alten Frau | Ihrer alten Frau",
        "Ihr altes Kind | Ihr altes Kind | Ihrem alten Kind | Ihres alten Kindes",
        "Ihre alten Kinder | Ihre alten Kinder | Ihren alten Kindern | Ihrer alten Kinder",
    ],
    "unser": [
        "unser alter Mann | unseren alten Mann | unserem alten Mann | unseres alten Mannes",
        "unsere alte Frau | unsere alte Frau | unserer alten Frau | unserer alten Frau",
        "unser altes Kind | unser altes Kind | unserem alten Kind | unseres alten Kindes",
        "unsere alten Kinder | unsere alten Kinder | unseren alten Kindern | unserer alten Kinder",
    ],
    None: [
        "alter Mann | alten Mann | altem Mann | alten Mannes",
        "alte Frau | alte Frau | alter Frau | alter Frau",
        "altes Kind | altes Kind | altem Kind | alten Kindes",
        "alte Kinder | alte Kinder | alten Kindern | alter Kinder",
    ],
}


@pytest.mark.parametrize("determiner", TABLES)
def test_declension_is_that_of_the_grammar_books(determiner: str | None) -> None:
    for (entry, number), row in zip(
        [(MAN, []), (WOMAN, []), (CHILD, []), (CHILD, ["pl"])], TABLES[determiner], strict=True
    ):
        for case, wanted in zip(("nom", "acc", "dat", "gen"), row.split(" | "), strict=True):
            features = [*([determiner] if determiner else []), case, *number]
            assert entry.german(features, OLD).replace(ARTICLE_MARK, "") == wanted


@pytest.mark.parametrize("determiner", DETERMINERS)
def test_every_determiner_declines_in_every_case(determiner: str) -> None:
    for case in CASES:
        for entry in (MAN, WOMAN, CHILD):
            assert entry.german([determiner, case], None).replace(ARTICLE_MARK, "")[-1].isalpha()


def test_without_a_case_it_is_the_nominative() -> None:
    assert MAN.german(["ein"], None) == "ein Mann"
    assert MAN.german([], None) == "Mann"


@pytest.mark.parametrize(
    ("line", "forms"),
    [
        # singular nominative, accusative, dative, genitive; plural nominative and dative
        ("colleague ; m Kollege/Kollegen/Kollegen ; 位 同事", "Kollege Kollegen Kollegen Kollegen Kollegen Kollegen"),
        ("name ; m Name/Namen/Namen/Namens ; 个 名字", "Name Namen Namen Namens Namen Namen"),
        ("heart ; n Herz/Herzen/Herz/Herzens ; 颗 心", "Herz Herz Herz Herzens Herzen Herzen"),
        ("house ; n Haus/Häuser ; 座 房子", "Haus Haus Haus Hauses Häuser Häusern"),
        ("table ; m Tisch/Tische ; 张 桌子", "Tisch Tisch Tisch Tisches Tische Tischen"),
        ("apple ; m Apfel/Äpfel ; 个 苹果", "Apfel Apfel Apfel Apfels Äpfel Äpfeln"),
        ("taxi ; n Taxi/Taxis ; 辆 出租车", "Taxi Taxi Taxi Taxis Taxis Taxis"),
        ("square ; m Platz/Plätze ; 个 广场", "Platz Platz Platz Platzes Plätze Plätzen"),
        ("topic ; n Thema/Themen ; 个 主题", "Thema Thema Thema Themas Themen Themen"),
        ("city ; f Stadt/Städte ; 座 城市", "Stadt Stadt Stadt Stadt Städte Städten"),
    ],
)
def test_noun_forms_come_from_few_principal_parts(line: str, forms: str) -> None:
    entry = noun(line)
    slots = [["nom"], ["acc"], ["dat"], ["gen"], ["nom", "pl"], ["dat", "pl"]]
    assert [entry.german(features, None) for features in slots] == forms.split()


@pytest.mark.parametrize(
    ("line", "forms"),
    [
        ("dark ; dunkel/dunkl ; 深色", "ein dunkler Mann"),
        ("expensive ; teuer/teur ; 贵", "ein teurer Mann"),
        ("tired ; müde ; 疲倦", "ein müder Mann"),
        ("high ; hoch/hoh ; 高", "ein hoher Mann"),
    ],
)
def test_adjective_stems(line: str, forms: str) -> None:
    entry = adjective(line)
    assert MAN.german(["ein"], entry) == forms
    assert entry.predicative == line.split(" ; ")[1].split("/", maxsplit=1)[0]


def test_pronouns_follow_gender_and_number() -> None:
    table = {
        "er": "er sie es sie",
        "ihn": "ihn sie es sie",
        "ihm": "ihm ihr ihm ihnen",
    }
    for pronoun, row in table.items():
        found = [entry.german([pronoun], None) for entry in (MAN, WOMAN, CHILD)]
        assert [*found, CHILD.german([pronoun, "pl"], None)] == row.split()


def test_relative_pronouns_follow_gender_number_and_case() -> None:
    table = {"nom": "der die das die", "acc": "den die das die", "dat": "dem der dem denen"}
    for case, row in table.items():
        found = [entry.german(["rel", case], None) for entry in (MAN, WOMAN, CHILD)]
        assert [*found, CHILD.german(["rel", case, "pl"], None)] == row.split()


# --- contractions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preposition", "case", "entry", "wanted"),
    [
        ("in", "dat", CHILD, "im Kind"),
        ("in", "acc", CHILD, "ins Kind"),
        ("In", "dat", MAN, "Im Mann"),
        ("an", "dat", MAN, "am Mann"),
        ("an", "acc", CHILD, "ans Kind"),
        ("von", "dat", CHILD, "vom Kind"),
        ("bei", "dat", MAN, "beim Mann"),
        ("zu", "dat", MAN, "zum Mann"),
        ("Zu", "dat", WOMAN, "Zur Frau"),
        ("in", "dat", WOMAN, "in der Frau"),
        ("an", "acc", MAN, "an den Mann"),
        ("mit", "dat", MAN, "mit dem Mann"),
        ("darin", "dat", MAN, "darin dem Mann"),
    ],
)
def test_prepositions_and_articles_contract(preposition: str, case: str, entry: Noun, wanted: str) -> None:
    assert contract(f"{preposition} {entry.german(['der', case], None)}") == wanted


def test_relative_pronouns_never_contract() -> None:
    for preposition in ("in", "an", "von", "bei", "zu"):
        for entry in (MAN, WOMAN, CHILD):
            pronoun = entry.german(["rel", "dat"], None)
            text = f"das Haus, {preposition} {pronoun} wir wohnen"
            assert contract(text) == text


def test_plain_text_does_not_contract_and_no_mark_is_left() -> None:
    assert contract("das Zimmer, in dem wir wohnen") == "das Zimmer, in dem wir wohnen"
    assert ARTICLE_MARK not in contract(f"{ARTICLE_MARK}der Mann auf {ARTICLE_MARK}dem Dach")


# --- English and Chinese ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("english", "article", "plural"),
    [
        ("apple", "an apple", "apples"),
        ("box", "a box", "boxes"),
        ("church", "a church", "churches"),
        ("city", "a city", "cities"),
        ("day", "a day", "days"),
        ("an hour", "an hour", "hours"),
        ("a university", "a university", "universities"),
        ("child/children", "a child", "children"),
        ("a user/users", "a user", "users"),
        ("glass", "a glass", "glasses"),
    ],
)
def test_english_articles_and_plurals(english: str, article: str, plural: str) -> None:
    entry = noun(f"{english} ; m Wert/Werte ; 个 值")
    assert entry.english(["a"], None) == article
    assert entry.english(["pl"], None) == plural
    assert entry.english([], None) == article.partition(" ")[2]


def test_the_english_article_follows_the_adjective() -> None:
    hour = noun("an hour ; f Stunde/Stunden ; 个 小时")
    assert hour.english(["a"], adjective("long ; lang ; 长")) == "a long hour"
    assert hour.english(["a"], adjective("early ; früh ; 早")) == "an early hour"
    assert hour.english(["pl"], adjective("early ; früh ; 早")) == "early hours"


def test_chinese_nouns_have_measure_words() -> None:
    assert MAN.chinese(["m"], None) + MAN.chinese([], None) == "位男人"


def test_phrases_have_columns_by_language() -> None:
    entry = parse_entry("phrase", "pick up | picked up ; hole | ab | abgeholt ; 取")
    assert isinstance(entry, Phrase)
    assert [entry.column("en", ["1"]), entry.column("en", ["2"])] == ["pick up", "picked up"]
    assert [entry.column("de", [str(i)]) for i in (1, 2, 3)] == ["hole", "ab", "abgeholt"]
    assert entry.column("zh", []) == "取"


# --- mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("noun", "soup ; f Suppe/Suppen", "expected 'English ; German ; Chinese'"),
        ("noun", "soup ;  ; 碗 汤", "expected 'English ; German ; Chinese'"),
        ("noun", "a ; b ; c ; d", "expected 'English ; German ; Chinese'"),
        ("noun", "soup ; Suppe/Suppen ; 碗 汤", "gender 'Suppe/Suppen' is not one of m, f, n"),
        ("noun", "soup ; f Suppe ; 碗 汤", "German needs singular/plural"),
        ("noun", "soup ; f ; 碗 汤", "German needs singular/plural"),
        ("noun", "soup ; f Suppe/Suppen ; 汤", "Chinese needs 'measure-word noun', got '汤'"),
        ("verb", "go ; gehen ; 去", "unknown kind 'verb'; valid: noun, adjective, phrase"),
    ],
)
def test_mistakes_in_a_line_are_explained(kind: str, line: str, message: str) -> None:
    with pytest.raises(GrammarError) as caught:
        parse_entry(kind, line)
    assert message in str(caught.value)


def test_missing_plurals_are_explained() -> None:
    milk = noun("milk/- ; f Milch/- ; 杯 牛奶")
    with pytest.raises(GrammarError, match="'milk' has no English plural"):
        milk.english(["pl"], None)
    with pytest.raises(GrammarError, match="'Milch' has no German plural"):
        milk.german(["pl"], None)


def test_unknown_features_are_explained_with_the_valid_ones() -> None:
    with pytest.raises(GrammarError, match=r"English noun slot: unknown \['the'\]; valid: a, pl"):
        MAN.english(["the"], None)
    with pytest.raises(GrammarError, match=r"German noun slot: unknown \['abl'\]; valid: .*acc.*dat.*dies.*rel"):
        MAN.german(["abl"], None)
    with pytest.raises(GrammarError, match=r"Chinese noun slot: unknown \['pl'\]; valid: m"):
        MAN.chinese(["pl"], None)
    with pytest.raises(GrammarError, match="adjectives as slots of their own"):
        MAN.chinese([], OLD)


@pytest.mark.parametrize("features", [["3"], ["0"], ["a"], ["1", "2"]])
def test_unknown_columns_are_explained(features: list[str]) -> None:
    entry = Phrase.parse("one | two", "eins", "一")
    with pytest.raises(GrammarError, match=f"'one' has en columns 1 to 2, not {'.'.join(features)}"):
        entry.column("en", features)
