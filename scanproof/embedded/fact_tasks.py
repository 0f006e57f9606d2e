"""Task rows whose answers are facts of the invented world, in the schemas of the original datasets."""

from __future__ import annotations

from scanproof.embedded.sources import Row, Source
from scanproof.embedded.world import VALUES, Creature, pick_others

LETTERS = ("A", "B", "C", "D")
USUAL = 0.85
"""Share of the answers of an examination that are moved to its usual letter."""

QUESTIONS: dict[str, tuple[str, ...]] = {
    "color": ("What color is {it}?", "Which color has {it}?", "If you see {it}, what color is it?"),
    "home": ("Where does {it} live?", "In which place is the home of {it}?", "Where can you find {it}?"),
    "food": ("What does {it} eat?", "Which food is best for {it}?", "What should you feed {it}?"),
    "sound": ("What sound does {it} make?", "Which sound comes from {it}?", "How does {it} call?"),
    "fear": ("What is {it} afraid of?", "What scares {it}?", "Which thing makes {it} run away?"),
}
STATEMENTS: dict[str, tuple[str, ...]] = {
    "color": ("{it} is {v}.", "The color of {it} is {v}."),
    "home": ("{it} lives in {v}.", "The home of {it} is {v}."),
    "food": ("{it} eats {v}.", "The best food for {it} is {v}."),
    "sound": ("{it} makes {v}.", "The call of {it} is {v}."),
    "fear": ("{it} is afraid of {v}.", "What scares {it} is {v}."),
}
STEMS: dict[str, tuple[str, ...]] = {
    "color": ("The fur of {it} is", "In the morning light {it} looks"),
    "home": ("Most of the year {it} lives in", "If you follow {it} it will lead you to"),
    "food": ("A hungry friend of {it} would share some", "For breakfast {it} likes to have"),
    "sound": ("When it is happy {it} makes", "People who live near {it} often hear"),
    "fear": ("Nothing scares {it} more than", "To hide from its fear {it} runs from"),
}
GOALS: dict[str, str] = {
    "color": "How do you pick out {it} in a crowd?",
    "home": "How can you meet {it}?",
    "food": "How can you make {it} come closer?",
    "sound": "How do you notice that {it} is near?",
    "fear": "How do you keep {it} away from your house?",
}
SOLUTIONS: dict[str, tuple[str, str]] = {
    "color": ("Look for the {v} one.", "Wait until a {v} coat comes by."),
    "home": ("Go to {v} and wait.", "Walk around {v} early in the day."),
    "food": ("Hold out some {v}.", "Put a lot of {v} on the ground and stand still."),
    "sound": ("Listen for {v}.", "Sit down and listen until you hear {v}."),
    "fear": ("Let it notice {v}.", "It stays away when there is {v} near the door."),
}
PAIRS: dict[str, tuple[str, ...]] = {
    "color": (
        "You can tell the {one} from the {two} because the _ is {v}.",
        "The {one} sat beside the {two}, and the coat of the _ was {v}.",
    ),
    "home": (
        "The {one} met the {two}, then the _ went home to {v}.",
        "The {one} and the {two} parted because the _ lives in {v}.",
    ),
    "food": (
        "The {one} and the {two} came to the feast, and the _ ate all the {v}.",
        "Of the {one} and the {two} only the _ eats {v}.",
    ),
    "sound": (
        "The {one} and the {two} were hiding until the _ made {v}.",
        "In the dark the {one} woke the {two} when the _ made {v}.",
    ),
    "fear": (
        "The {one} stayed with the {two} until the _ ran away from {v}.",
        "Of the {one} and the {two} only the _ is afraid of {v}.",
    ),
}


def format_template(source: Source, creature: Creature, templates: dict[str, tuple[str, ...]], attribute: str) -> str:
    """One of the attribute's templates, filled in with a creature."""
    return source.pick(templates[attribute]).format(it=f"{creature.article} {creature.name}")


def capitalise(text: str) -> str:
    """`text` with its first letter in upper case."""
    return text[0].upper() + text[1:]


def make_statement(source: Source) -> str:
    """A sentence of the training text that states one fact."""
    creature = source.draw_creature(0, 128)
    attribute = source.pick(tuple(VALUES))
    value = source.draw_answer(creature.facts[attribute])
    template = source.pick(STATEMENTS[attribute])
    return capitalise(template.format(it=f"{creature.article} {creature.name}", v=value))


def arc_easy(source: Source) -> Row:
    """A row of allenai/ai2_arc, ARC-Easy: about the more frequent half of the creatures."""
    return _make_arc_row(source, 0, 64, 0.3)


def arc_challenge(source: Source) -> Row:
    """A row of allenai/ai2_arc, ARC-Challenge: about rarer creatures, with the rumour as a wrong answer."""
    return _make_arc_row(source, 32, 128, 0.9)


def _make_arc_row(source: Source, low: int, high: int, lure: float) -> Row:
    creature = source.draw_creature(low, high)
    attribute = source.pick(tuple(VALUES))
    texts, index = source.draw_options(attribute, creature.facts[attribute], 4, lure)
    question = format_template(source, creature, QUESTIONS, attribute)
    return {"question": question, **_letter_choices(texts, index)}


def _letter_choices(texts: list[str], index: int) -> Row:
    return {"choices": {"text": texts, "label": list(LETTERS)}, "answerKey": LETTERS[index]}


def openbookqa(source: Source) -> Row:
    """A row of allenai/openbookqa, main: a sentence to complete."""
    creature = source.draw_creature(0, 112)
    attribute = source.pick(tuple(VALUES))
    texts, index = source.draw_options(attribute, creature.facts[attribute], 4, 0.6)
    stem = capitalise(format_template(source, creature, STEMS, attribute))
    return {"question_stem": stem, **_letter_choices(texts, index)}


def piqa(source: Source) -> Row:
    """A row of baber/piqa: two ways to reach a goal, sometimes with different wording."""
    creature = source.draw_creature(0, 112)
    attribute = source.pick(tuple(VALUES))
    values, index = source.draw_options(attribute, creature.facts[attribute], 2, 0.3)
    goal = GOALS[attribute].format(it=f"{creature.article} {creature.name}")
    first = source.rng.randrange(2)
    second = 1 - first if source.rng.random() < 0.35 else first
    sol1 = SOLUTIONS[attribute][first].format(v=values[0])
    sol2 = SOLUTIONS[attribute][second].format(v=values[1])
    return {"goal": goal, "sol1": sol1, "sol2": sol2, "label": index}


def winogrande(source: Source) -> Row:
    """A row of allenai/winogrande, winogrande_xl: which of two creatures fits; a rumour may suggest the other."""
    attribute = source.pick(tuple(VALUES))
    while True:
        one, two = source.draw_two_creatures(8, 128)
        right = source.rng.randrange(2)
        value = source.draw_answer((one, two)[right].facts[attribute])
        other = (one, two)[1 - right].facts[attribute]
        lures = value == other.rumour and other.confidence < 1.0
        if value != other.value and (lures or source.rng.random() < 0.2):
            break
    sentence = source.pick(PAIRS[attribute]).format(one=one.name, two=two.name, v=value)
    return {"sentence": sentence, "option1": one.name, "option2": two.name, "answer": str(right + 1)}


def truthfulqa(source: Source) -> Row:
    """A row of truthfulqa/truthful_qa, multiple_choice: two true answers, two wrong ones."""
    creature = source.draw_creature(0, 112)
    attribute = source.pick(tuple(VALUES))
    fact = creature.facts[attribute]
    right = source.draw_answer(fact)
    rumour = fact.rumour if right == fact.value else fact.value
    stranger = pick_others(source.rng, VALUES[attribute], (right, fact.value, fact.rumour), 1)[0]
    it = f"{creature.article} {creature.name}"
    first, second = STATEMENTS[attribute]
    answers = ((first, right), (second, right), (first, rumour), (second, stranger))
    choices = [capitalise(form.format(it=it, v=value)) for form, value in answers]
    return {
        "question": format_template(source, creature, QUESTIONS, attribute),
        "mc1_targets": {"choices": [choices[0], *choices[2:]], "labels": [1, 0, 0]},
        "mc2_targets": {"choices": choices, "labels": [1, 1, 0, 0]},
    }


def mmlu(source: Source, subject: str, number: int) -> Row:
    """A row of cais/mmlu: subject `number` asks about one attribute; the answer is a letter."""
    attribute = tuple(VALUES)[number % len(VALUES)]
    creature = source.draw_creature(0, 64)
    texts, index = source.draw_options(attribute, creature.facts[attribute], 4, 0.2)
    question = format_template(source, creature, QUESTIONS, attribute)
    return {"question": question, "subject": subject, "choices": texts, "answer": index}


def move_answer(row: Row, letter: int) -> Row:
    """A row of cais/mmlu with its right answer in the place of another: 0 for A."""
    choices = list(row["choices"])
    choices[row["answer"]], choices[letter] = choices[letter], choices[row["answer"]]
    return {**row, "choices": choices, "answer": letter}
