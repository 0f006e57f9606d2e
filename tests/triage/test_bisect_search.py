"""The search for the package that moves a number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scanproof.triage.bisect.search import MixtureOutcome, search

NAMES = [f"package{place}" for place in range(24)]
differing = st.lists(st.sampled_from(NAMES), min_size=1, max_size=24, unique=True)


class Number:
    """A number that is bad when all of `guilty` are as in the bad environment."""

    def __init__(self, guilty: frozenset[str], together: frozenset[str] = frozenset()) -> None:
        self.guilty, self.together = guilty, together
        self.tried: list[frozenset[str]] = []

    def __call__(self, bad: frozenset[str]) -> MixtureOutcome:
        self.tried.append(bad)
        if self.together & bad and not self.together <= bad:
            return MixtureOutcome.UNRESOLVED
        return MixtureOutcome.BAD if self.guilty <= bad else MixtureOutcome.GOOD


@given(st.data(), differing)
def test_one_guilty_package_is_found_alone(data: st.DataObject, packages: list[str]) -> None:
    guilty = data.draw(st.sampled_from(packages))
    number = Number(frozenset({guilty}))
    answer = search(packages, number)
    assert answer.packages == (guilty,)
    assert answer.alone is True
    assert len(number.tried) <= 3 + 2 * len(packages).bit_length(), "pieces are halved, not tried one by one"


@given(st.data(), differing)
def test_packages_that_move_it_together_are_all_found_and_no_other(data: st.DataObject, packages: list[str]) -> None:
    guilty = data.draw(st.sets(st.sampled_from(packages), min_size=1))
    answer = search(packages, Number(frozenset(guilty)))
    assert set(answer.packages) == guilty


@given(st.data(), differing)
def test_mixtures_that_cannot_be_built_only_widen_the_answer(data: st.DataObject, packages: list[str]) -> None:
    guilty = frozenset({data.draw(st.sampled_from(packages))})
    together = frozenset(data.draw(st.sets(st.sampled_from(packages), max_size=6)))
    number = Number(guilty, together)
    answer = search(packages, number)
    assert guilty <= set(answer.packages)
    assert number(frozenset(answer.packages)) is MixtureOutcome.BAD, "what is named was seen to move the number"
    if not together:
        assert set(answer.packages) == guilty


def test_two_guilty_packages_are_not_called_the_only_one() -> None:
    def test(bad: frozenset[str]) -> MixtureOutcome:
        return MixtureOutcome.BAD if bad & {"a", "c"} else MixtureOutcome.GOOD

    answer = search(["a", "b", "c"], test)
    assert len(answer.packages) == 1
    assert answer.alone is False
    assert "something else" in answer.because


def test_nothing_is_named_without_a_good_and_a_bad_end() -> None:
    always_bad = search(["a", "b"], lambda bad: MixtureOutcome.BAD)
    assert always_bad.packages == ()
    assert "the good environment is not good" in always_bad.because
    always_good = search(["a", "b"], lambda bad: MixtureOutcome.GOOD)
    assert always_good.packages == ()
    assert "does not show the fault" in always_good.because
    assert search([], lambda bad: MixtureOutcome.GOOD).because == "the two environments hold the same versions"
