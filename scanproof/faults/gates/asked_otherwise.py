"""Faults in what the model is asked: prompts, delimiters, tokens, choices, examples, documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scanproof.faults.gates.wrap import wrap


def change_prompts(change: Callable[[str], str], only: int | None = None) -> None:
    """Change the prompt of each document, or of the one of an index."""
    from lm_eval.api.task import ConfigurableTask

    count = iter(range(1 << 62))

    def around(right: Any, *args: Any, **options: Any) -> Any:
        prompt = right(*args, **options)
        return change(prompt) if only in (None, next(count)) else prompt

    wrap(ConfigurableTask, "fewshot_context", around)


def prompt_without_question() -> None:
    change_prompts(lambda prompt: prompt.replace("Question: ", ""))


def prompt_with_space() -> None:
    change_prompts(lambda prompt: prompt + " ")


def prompt_of_one_document() -> None:
    change_prompts(lambda prompt: prompt.replace("Question: ", "Question: So "), only=7)


def prompt_with_description() -> None:
    change_prompts(lambda prompt: f"Answer the following question.\n\n{prompt}")


def prompt_in_lower_case() -> None:
    change_prompts(str.lower)


def set_task_field(name: str, value: Any) -> None:
    """Set a field of every task's configuration."""
    from lm_eval.api.task import ConfigurableTask

    def around(right: Any, self: Any, *args: Any, **options: Any) -> Any:
        setattr(self.config, name, value)
        if hasattr(self.fewshot_cfg, name):
            setattr(self.fewshot_cfg, name, value)
        return right(self, *args, **options)

    wrap(ConfigurableTask, "build_all_requests", around)


def no_target_delimiter() -> None:
    set_task_field("target_delimiter", "")


def two_spaces_before_the_answer() -> None:
    set_task_field("target_delimiter", "  ")


def one_newline_between_examples() -> None:
    set_task_field("fewshot_delimiter", "\n")


def bos_before_every_text() -> None:
    from lm_eval.models.huggingface import HFLM

    wrap(HFLM, "tok_encode", lambda right, *args, **options: [0, *right(*args, **options)])


def change_tokens(change: Callable[[list[int], list[int]], tuple[list[int], list[int]]]) -> None:
    """Change the tokens of prompt and answer before they are scored."""
    from lm_eval.models.huggingface import HFLM

    def around(right: Any, *args: Any, **options: Any) -> Any:
        return change(*right(*args, **options))

    wrap(HFLM, "_encode_pair", around)


def bos_before_prompts() -> None:
    change_tokens(lambda prompt, answer: ([0, *prompt], answer))


def first_tokens_of_a_prompt() -> None:
    change_tokens(lambda prompt, answer: (prompt[:12], answer))


def last_tokens_of_a_prompt() -> None:
    change_tokens(lambda prompt, answer: (prompt[-12:], answer))


def last_token_of_an_answer_dropped() -> None:
    change_tokens(lambda prompt, answer: (prompt, answer[:-1] if len(answer) > 1 else answer))


def short_max_length() -> None:
    from lm_eval.models.huggingface import HFLM

    HFLM.max_length = property(lambda self: 30)


def change_choices(change: Callable[[list[str]], list[str]]) -> None:
    """Change the answers to choose from."""
    from lm_eval.api.task import ConfigurableTask

    def around(right: Any, *args: Any, **options: Any) -> Any:
        choices = right(*args, **options)
        return change(choices) if isinstance(choices, list) else choices

    wrap(ConfigurableTask, "doc_to_choice", around)


def choices_in_reverse() -> None:
    change_choices(lambda choices: choices[::-1])


def choices_and_targets_in_reverse() -> None:
    change_choices(lambda choices: choices[::-1])
    change_targets(lambda target, count: count - 1 - target)


def first_choice_twice() -> None:
    change_choices(lambda choices: [choices[0], choices[0], *choices[2:]])


def change_targets(change: Callable[[int, int], int]) -> None:
    """Change the index of the right answer; the change also gets the number of answers."""
    from lm_eval.api.task import ConfigurableTask

    def around(right: Any, self: Any, doc: Any, *args: Any, **options: Any) -> Any:
        target = right(self, doc, *args, **options)
        return change(target, len(self.doc_to_choice(doc))) if isinstance(target, int) else target

    wrap(ConfigurableTask, "doc_to_target", around)


def targets_one_further() -> None:
    change_targets(lambda target, count: (target + 1) % count)


def change_examples(change: Callable[[Any, int], Any]) -> None:
    """Change the examples before a question: from the pool and their number."""
    from lm_eval.api.samplers import FirstNSampler

    def sample(self: Any, n: int, eval_doc: Any = None, df: Any = None, **_: Any) -> Any:
        return change(list(self.df), n)

    FirstNSampler.sample = sample


def examples_drawn_at_random() -> None:
    from random import Random

    change_examples(lambda pool, count: Random(1).sample(pool, count))


def examples_in_reverse() -> None:
    change_examples(lambda pool, count: pool[:count][::-1])


def one_example_fewer() -> None:
    change_examples(lambda pool, count: pool[: count - 1])


def examples_with_wrong_answers() -> None:
    change_examples(lambda pool, count: [{**doc, "answer": (doc["answer"] + 1) % 4} for doc in pool[:count]])


def first_example_repeated() -> None:
    change_examples(lambda pool, count: [pool[0]] * count)


def choose_documents(choose: Callable[[list[Any]], list[int]]) -> None:
    """Let a task have the documents of these indices, after its dataset was read."""
    from lm_eval.api.task import ConfigurableTask

    for name in ("test_docs", "validation_docs"):
        wrap(
            ConfigurableTask,
            name,
            lambda right, self: docs.select(choose(list(docs))) if (docs := right(self)) else docs,
        )


def documents_sorted() -> None:
    choose_documents(lambda docs: sorted(range(len(docs)), key=lambda index: str(docs[index])))


def documents_of_the_first_half_twice() -> None:
    choose_documents(lambda docs: [*range(len(docs) // 2)] * 2)
