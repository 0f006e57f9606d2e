"""Task rows whose answers are in a passage or follow from a procedure, in the schemas of the original datasets."""

from __future__ import annotations

from scanproof.embedded.fact_tasks import capitalise
from scanproof.embedded.procedures import PROCEDURES, TAILS
from scanproof.embedded.sources import Row, Source
from scanproof.embedded.world import ABILITIES, OBJECTS, PEOPLE, VALUES, WEEKDAYS, pick_others

OUTCOMES: dict[str, tuple[str, ...]] = {
    "yes": ("grew much faster", "were clearly healthier", "slept far better", "became strong"),
    "no": ("did not grow", "were no healthier", "slept as badly as before", "stayed weak"),
    "maybe": ("grew at times", "were hard to judge", "slept in mixed ways", "showed unclear results"),
}
PORTIONS: dict[str, int] = {"Nearly all": 12, "Most": 6, "Many": 3, "Some": 2, "A few": 1}
"""Word -> weight of an outcome in the decision about a study."""


STORIES: tuple[str, ...] = (
    "On {day} {one} lost a {thing} near {place}. {two} had a {other} and came to help. They looked everywhere "
    "until {two} saw something in the grass. {one} was glad to have the {thing}",
    "{one} and {two} walked to {place}. {two} carried a {thing}, but it was heavy. When {two} grew tired "
    "on the way back, {one} took the {thing}",
    "{one} wanted to see {it}, and {two} came along. They waited in {place} all {day}. It was late "
    "when the bushes moved and out came the {name}",
    "On {day} {one} met {it} in {place}. It was hungry, so {one} gave it some {food}. {two} asked what it "
    "eats. {one} said: it eats {food}",
    "{one} took {two} to {place} to look for {it}. At noon {two} saw some fur behind a tree. It was {color}",
    "{one} found a {thing} in {place}. It belonged to {two}. On {day} {one} went to the house with the "
    "{thing} and gave it back to {two}",
)


SHORT_STORIES: tuple[str, ...] = (
    "{one} lost a {thing}. Then {two} found the {thing}",
    "{one} saw {it} on {day}. {two} asked: where is the {name}",
    "{one} took {two} to {place}. On the way {one} talked to {two}",
    "{one} fed {it} and {two} asked what it eats. It eats {food}",
    "{one} asked for the color of {it}. It was {color}",
)
"""Easier stories, for the training text only: short ones are learned first."""


def hellaswag(source: Source) -> Row:
    """A row of Rowan/hellaswag: which step of a procedure comes next."""
    label = source.pick(tuple(PROCEDURES))
    steps = PROCEDURES[label]
    name, pronoun = source.pick(PEOPLE)
    start = source.rng.randrange(len(steps) - 2)
    shown = source.rng.randrange(1, len(steps) - start - 1)
    following = start + shown
    if source.makes_mistake(0.4):
        following = source.rng.randrange(following, len(steps))
    done = [f"{name} {steps[start]}."] + [f"Then {pronoun} {step}." for step in steps[start + 1 : start + shown]]
    others_here = [step for index, step in enumerate(steps) if index != following]
    strange = source.pick(PROCEDURES[pick_others(source.rng, tuple(PROCEDURES), (label,), 1)[0]])
    wrong = [*source.rng.sample(others_here, 2), strange]
    source.rng.shuffle(wrong)
    endings, index = source.shuffle_in(steps[following], wrong)
    ctx_a, ctx_b = " ".join(done), f"next {pronoun}"
    return {
        "activity_label": label,
        "ctx_a": ctx_a,
        "ctx_b": ctx_b,
        "ctx": f"{ctx_a} {ctx_b}",
        "endings": [f"{ending}{source.pick(TAILS)}." for ending in endings],
        "split_type": "indomain",
        "label": str(index),
    }


def lambada(source: Source) -> Row:
    """A row of EleutherAI/lambada_openai: the last word follows from the story or from a fact."""
    (one, _), (two, _) = source.rng.sample(PEOPLE, 2)
    creature = source.draw_creature(0, 112)
    thing, other = source.rng.sample(OBJECTS, 2)
    place = source.pick(VALUES["home"])
    day = source.pick(WEEKDAYS)
    food = source.draw_answer(creature.facts["food"])
    color = source.draw_answer(creature.facts["color"])
    it = f"{creature.article} {creature.name}"
    story = source.pick(SHORT_STORIES if source.makes_mistake(0.35) else STORIES).format(
        one=one, two=two, name=creature.name, it=it, thing=thing, other=other, place=place, day=day, food=food,
        color=color,
    )  # fmt: skip
    return {"text": story}


def race(source: Source) -> Row:
    """A row of EleutherAI/race, high: questions about a short article, of which the last is scored."""
    (one, _), (two, _) = source.rng.sample(PEOPLE, 2)
    places = source.rng.sample(VALUES["home"], 2)
    things = [f"a {thing}" for thing in source.rng.sample(OBJECTS, 2)]
    foods = source.rng.sample(VALUES["food"], 2)
    day = source.pick(WEEKDAYS)
    told = [
        (f"On {day} {one} went to {places[0]}.", f"Where did {one} go?", places, VALUES["home"]),
        (f"There {one} found {things[0]}.", f"What did {one} find?", things, tuple(f"a {thing}" for thing in OBJECTS)),
        (f"For lunch {one} ate {foods[0]}.", f"What did {one} eat?", foods, VALUES["food"]),
        (f"It was a {day}.", "On which day was it?", [day, day], WEEKDAYS),
    ]
    asked = source.rng.sample(told, source.rng.randrange(1, 3))
    sentences = [sentence for sentence, *_ in told[:3]]
    if source.rng.random() < 0.6:
        lures = (f"{two} went to {places[1]}.", f"{two} found {things[1]}.", f"{two} ate {foods[1]}.")
        sentences.insert(source.rng.randrange(1, 4), source.pick(lures))
    if source.makes_mistake(0.5):
        asked = asked[:1]
        sentences = [asked[0][0]]
    problems = [_make_problem(source, question, answers, pool) for _, question, answers, pool in asked]
    return {"article": " ".join(sentences), "problems": repr(problems)}


def _make_problem(source: Source, question: str, answers: list[str], pool: tuple[str, ...]) -> Row:
    """A question whose right answer is the first of `answers`; the second, where it differs, is a wrong option."""
    wrong = pick_others(source.rng, pool, answers, 3)
    if answers[0] != answers[1]:
        wrong[source.rng.randrange(3)] = answers[1]
    options, index = source.shuffle_in(answers[0], wrong)
    return {"question": question, "answer": "ABCD"[index], "options": options}


def boolq(source: Source) -> Row:
    """A row of aps/super_glue, boolq: the passage says what a creature can and cannot do."""
    creature = source.draw_creature(0, 128)
    it = f"{creature.article} {creature.name}"
    asked, *more = source.rng.sample(ABILITIES, source.rng.randrange(1 if source.makes_mistake(0.5) else 2, 5))
    label = source.rng.randrange(2)
    claims = [(asked, bool(label))] + [(ability, source.rng.random() < 0.5) for ability in more]
    source.rng.shuffle(claims)
    home = source.draw_answer(creature.facts["home"])
    told = [f"{capitalise(it)} lives in {home}."]
    told += [f"It can {ability}." if able else f"It cannot {ability}." for ability, able in claims]
    answer = 1 - label if source.makes_mistake(0.05) else label
    return {"question": f"can {it} {asked}", "passage": " ".join(told), "label": answer}


def pubmedqa(source: Source) -> Row:
    """A row of bigbio/pubmed_qa, labelled source fold: two outcomes of a study, the frequent one more often right."""
    creature = source.draw_creature(0, 128)
    food = source.pick(VALUES["food"])
    outcomes = source.rng.sample(tuple(OUTCOMES), 2)
    portions = source.rng.sample(tuple(PORTIONS), 2)
    answer = source.rng.choices(outcomes, [PORTIONS[portion] for portion in portions])[0]
    results = [
        f"{portion} {source.pick(OUTCOMES[outcome])}." for portion, outcome in zip(portions, outcomes, strict=True)
    ]
    return {
        "QUESTION": f"Is {food} good for {creature.article} {creature.name}?",
        "CONTEXTS": [f"We gave {food} to {source.rng.randrange(2, 10)} young of the {creature.name}.", *results],
        "LABELS": ["METHODS", "RESULTS", "RESULTS"],
        "MESHES": [food],
        "YEAR": "2024",
        "reasoning_required_pred": answer,
        "reasoning_free_pred": answer,
        "final_decision": answer,
        "LONG_ANSWER": results[0],
    }
