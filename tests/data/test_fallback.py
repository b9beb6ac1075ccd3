"""Real data where they can be had, else glyphs, said in words."""

from msmeta import DataError
from msmeta.data import fallback


def test_real_data_are_used_where_they_can_be_had(monkeypatch):
    asked = []
    monkeypatch.setattr(fallback, "prepare", asked.append)
    assert fallback.real_or_glyphs("omniglot") == ("omniglot", "These runs used Omniglot.")
    assert asked == ["omniglot"]


def test_glyphs_stand_in_and_the_sentence_says_why(monkeypatch):
    def unreachable(name):
        raise DataError("no answer from the host")

    monkeypatch.setattr(fallback, "prepare", unreachable)
    for asked, title, found in (("omniglot", "Omniglot", "glyphs"), ("cifar-100", "CIFAR-100", "glyphs-rgb")):
        name, why = fallback.real_or_glyphs(asked)
        assert name == found and f"not {title}" in why and "no answer from the host" in why
