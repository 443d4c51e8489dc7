"""A text speaks against its tag only where the identifier knows the language and is sure."""

import pytest

from tercet.documents.language import Languages, are_kin, languages_of

TEXTS = {
    "de": "Der Hund schläft auf dem Teppich, während die Katze aus dem Fenster schaut.",
    "en": "The dog is sleeping on the carpet while the cat looks out of the window.",
    "fr": "Le chien dort sur le tapis pendant que le chat regarde par la fenêtre.",
    "fi": "Koira nukkuu matolla samalla kun kissa katselee ikkunasta ulos pihalle.",
    "ja": "犬は絨毯の上で眠り、猫は窓から外を眺めている。",
    "ru": "Весной реки выходят из берегов, и крестьяне ждут, когда можно будет пахать землю.",
    "sw": "Mbwa amelala juu ya zulia huku paka akitazama nje kupitia dirishani.",
    "th": "สุนัขนอนหลับอยู่บนพรมในขณะที่แมวมองออกไปนอกหน้าต่าง",
}


@pytest.fixture(scope="module")
def languages() -> Languages:
    return Languages()


@pytest.mark.parametrize("said", TEXTS)
def test_right_tags_stand_and_wrong_ones_do_not(languages: Languages, said: str) -> None:
    for lang, text in TEXTS.items():
        found = languages.against(text, said)
        assert found == (None if lang == said else lang)
        assert languages.find(text) == lang


@pytest.mark.parametrize("tag", ["xx", "klingon", "007", "ven2", "ch", "sr-Deva", "zh-Latn", "tlh"])
def test_what_is_not_known_is_not_judged(languages: Languages, tag: str) -> None:
    assert languages.name_of(tag) is None
    assert all(languages.against(text, tag) is None for text in TEXTS.values())


def test_names_of_other_standards_are_known(languages: Languages) -> None:
    for tag, name in {"deu": "de", "zh-Hant": "zh", "cmn_Hans": "zh", "pt-BR": "pt"}.items():
        assert languages.name_of(tag) == name
    assert languages.name_of("nb") == languages.name_of("nob") == "no"
    assert languages.against(TEXTS["de"], "eng_Latn") == "de"


def test_close_relatives_are_not_told_apart(languages: Languages) -> None:
    assert are_kin("no", "da")
    assert not are_kin("de", "nl")
    danish = "Hunden sover på gulvtæppet, mens katten kigger ud ad vinduet og venter på nogen."
    assert languages.against(danish, "no") is None
    assert languages.against(danish, "de") is not None


@pytest.mark.parametrize("text", ["Linux", "C++ / SQL", "", "12:30", "x = f(y) + 3"])
def test_a_few_letters_are_not_judged(languages: Languages, text: str) -> None:
    assert languages.find(text) is None
    assert languages.against(text, "th") is None


def test_a_foreign_beginning_is_looked_through(languages: Languages) -> None:
    text = "Where Is My Mind? (Live at the Old Town Hall). " + 12 * f"{TEXTS['de']} "
    assert languages.against(text, "de") is None
    assert languages.against(text, "fi") == "de"


@pytest.mark.parametrize(
    ("tag", "readings"),
    [
        ("de", [("de", "de")]),
        ("de-en", [("de", "en"), ("en", "de")]),
        ("zh-CN-en", [("zh-CN", "en"), ("en", "zh-CN")]),
        ("fr-CA-es-MX", [("fr-CA", "es-MX"), ("es-MX", "fr-CA")]),
        ("sr-Cyrl", [("sr-Cyrl", "sr-Cyrl")]),
        ("007-en", [("007", "en"), ("en", "007")]),
        ("es-419", [("es-419", "es-419")]),
        ("deu_Latn-eng_Latn", [("deu-Latn", "eng-Latn"), ("eng-Latn", "deu-Latn")]),
        ("zh-cn", [("zh", "cn"), ("cn", "zh"), ("zh-cn", "zh-cn")]),
        ("fr-ca", [("fr", "ca"), ("ca", "fr"), ("fr-ca", "fr-ca")]),
        ("", [("", "")]),
    ],
)
def test_tags_of_one_and_of_two_languages(tag: str, readings: list[tuple[str, str]]) -> None:
    assert languages_of(tag) == readings
