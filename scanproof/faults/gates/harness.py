"""Faults of the harness: prompts, tokens, answers, scores and aggregates, planted in the process that evaluates."""

from __future__ import annotations

from scanproof.faults.gates.endings import (
    CHANGED,
    MOVED,
    OTHER_AGGREGATE,
    OTHER_DOCUMENTS,
    OTHER_PROMPTS,
    OTHER_SCORES,
    OUT_OF_TOLERANCE,
    Ending,
    error,
)
from scanproof.faults.gates.gate_fault import GateFault, InWorker

MMLU = "mmlu_humanities"
NOT_FINITE = "answers are no finite number"
TIED = "all answers are exactly equal in 200 of 200 documents"


def in_worker(name: str, area: str, what: str, ending: Ending, numbers: str = "piqa") -> GateFault:
    """A fault that the worker plants; its id is the name of the function that does."""
    return GateFault(name, area, what, (InWorker(name),), ending, numbers)


FAULTS = (
    in_worker("prompt_without_question", "prompts", "The prompts lack `Question: `.", OTHER_PROMPTS),
    in_worker("prompt_with_space", "prompts", "A space follows each prompt.", OUT_OF_TOLERANCE),
    in_worker("prompt_of_one_document", "prompts", "One document's prompt has a word more.", OTHER_PROMPTS),
    in_worker("prompt_with_description", "prompts", "A sentence stands before each prompt.", OTHER_PROMPTS),
    in_worker("prompt_in_lower_case", "prompts", "The prompts are in lower case.", OUT_OF_TOLERANCE, "lambada_openai"),
    in_worker("no_target_delimiter", "delimiters", "No space stands between prompt and answer.", OUT_OF_TOLERANCE),
    in_worker("two_spaces_before_the_answer", "delimiters", "Two spaces stand before the answer.", OUT_OF_TOLERANCE),
    in_worker(
        "one_newline_between_examples",
        "delimiters",
        "One newline in place of two between examples.",
        OTHER_PROMPTS,
        MMLU,
    ),
    in_worker(
        "bos_before_every_text", "BOS", "A BOS token stands before every text that is tokenized.", OUT_OF_TOLERANCE
    ),
    in_worker("bos_before_prompts", "BOS", "A BOS token stands before each prompt, not in the probe.", CHANGED),
    in_worker("first_tokens_of_a_prompt", "truncation", "Long prompts are cut at their end.", MOVED),
    in_worker("last_tokens_of_a_prompt", "truncation", "Long prompts are cut at their beginning.", CHANGED),
    in_worker("last_token_of_an_answer_dropped", "truncation", "An answer lacks its last token.", CHANGED),
    in_worker("short_max_length", "truncation", "The model class takes 30 tokens, not 2,200.", CHANGED),
    in_worker("choices_in_reverse", "choice order", "The choices are in reverse, the targets not.", OUT_OF_TOLERANCE),
    in_worker("choices_and_targets_in_reverse", "choice order", "Choices and targets are in reverse.", OTHER_SCORES),
    in_worker("first_choice_twice", "choice order", "The second choice is the first one again.", error(TIED)),
    in_worker("targets_one_further", "choice order", "The right answer is taken to be the next one.", OTHER_SCORES),
    in_worker("examples_drawn_at_random", "few-shot", "Another sampler draws the examples.", OTHER_PROMPTS, MMLU),
    in_worker("examples_in_reverse", "few-shot", "The examples are in reverse.", OTHER_PROMPTS, MMLU),
    in_worker("one_example_fewer", "few-shot", "Four examples in place of five.", OTHER_PROMPTS, MMLU),
    in_worker("examples_with_wrong_answers", "few-shot", "The examples have wrong answers.", OTHER_PROMPTS, MMLU),
    in_worker("first_example_repeated", "few-shot", "The first example stands there five times.", OTHER_PROMPTS, MMLU),
    in_worker("normalised_by_words", "length normalisation", "acc_norm divides by words.", OTHER_SCORES),
    in_worker("normalised_by_nothing", "length normalisation", "acc_norm divides by nothing.", OTHER_SCORES),
    in_worker(
        "normalised_by_square_root", "length normalisation", "acc_norm divides by a root of the length.", OTHER_SCORES
    ),
    in_worker("least_likely_answer", "argmax and ties", "The least likely answer counts.", OTHER_SCORES),
    in_worker(
        "answers_compared_in_whole_nats",
        "argmax and ties",
        "Answers are rounded, the first of a tie counts.",
        OTHER_SCORES,
    ),
    in_worker(
        "first_answer_of_half_a_nat", "argmax and ties", "Of answers within half a nat the first counts.", OTHER_SCORES
    ),
    in_worker("all_answers_equal", "argmax and ties", "All answers are equal, the first counts.", error(TIED)),
    in_worker("all_answers_nan", "answers of the model", "All answers are NaN.", error(f"400 of 400 {NOT_FINITE}")),
    in_worker("one_answer_nan", "answers of the model", "One answer is NaN.", error(f"1 of 400 {NOT_FINITE}")),
    in_worker(
        "one_answer_infinite", "answers of the model", "One answer is minus infinity.", error(f"1 of 400 {NOT_FINITE}")
    ),
    in_worker(
        "answers_of_the_neighbour", "answers of the model", "Every second request gets the answer before.", error(TIED)
    ),
    in_worker("two_answers_swapped", "answers of the model", "The answers to two requests are swapped.", CHANGED),
    in_worker("answers_in_half_precision", "answers of the model", "Answers are rounded to bfloat16.", CHANGED),
    in_worker("answers_off_by_a_little", "answers of the model", "All answers are 3e-4 nats too likely.", CHANGED),
    in_worker("answers_too_likely", "answers of the model", "All answers are 3% nearer to zero.", CHANGED),
    in_worker("always_greedy", "metrics", "Every answer is called greedy.", OUT_OF_TOLERANCE, "lambada_openai"),
    in_worker("greedy_if_likely", "metrics", "An answer is called greedy if it is likely.", CHANGED, "lambada_openai"),
    in_worker("one_score_flipped", "metrics", "One document's score is flipped.", OTHER_SCORES),
    in_worker("two_scores_flipped_that_cancel", "metrics", "Two scores are flipped, their mean stays.", OTHER_SCORES),
    in_worker("perplexity_in_bits", "metrics", "The perplexity is made of bits.", OTHER_SCORES, "lambada_openai"),
    in_worker("mass_not_normalised", "metrics", "TruthfulQA's mass is not normalised.", OTHER_SCORES, "truthfulqa"),
    in_worker("mean_without_the_last_documents", "aggregates", "The mean leaves out six documents.", OTHER_AGGREGATE),
    in_worker("mean_divided_by_one_less", "aggregates", "The mean divides by one less.", OTHER_AGGREGATE),
    in_worker("mean_rounded", "aggregates", "The mean is rounded to one digit.", OTHER_AGGREGATE),
    in_worker(
        "stderr_halved",
        "aggregates",
        "The standard error is halved.",
        error("standard error: .* in the evaluation, its documents make"),
    ),
    in_worker(
        "perplexity_of_the_median", "aggregates", "The perplexity is of the median.", OTHER_AGGREGATE, "lambada_openai"
    ),
    in_worker(
        "one_task_left_out_of_a_group", "group weights", "A group's mean leaves out a task.", OTHER_AGGREGATE, MMLU
    ),
    in_worker("one_task_twice_in_a_group", "group weights", "A group counts a task twice.", OTHER_AGGREGATE, MMLU),
    in_worker(
        "weights_of_a_group_by_place", "group weights", "A group weighs tasks by their place.", OTHER_AGGREGATE, MMLU
    ),
    in_worker("median_of_a_group", "group weights", "A group's value is a median.", OTHER_AGGREGATE, MMLU),
    in_worker("documents_sorted", "datasets", "The harness sorts the documents.", OTHER_DOCUMENTS),
    in_worker(
        "documents_of_the_first_half_twice",
        "datasets",
        "The first half of the documents is asked twice.",
        error("200 of 200 documents got answers that other documents got to the last bit"),
    ),
    in_worker("network_in_bfloat16", "dtype", "The network computes in bfloat16, the job says float32.", CHANGED),
    in_worker("network_in_float16", "dtype", "The network computes in float16, the job says float32.", CHANGED),
    in_worker("weights_through_bfloat16", "dtype", "The weights went through bfloat16.", CHANGED),
    in_worker("last_layer_skipped", "dtype", "The last layer adds nothing.", OUT_OF_TOLERANCE),
    in_worker("weights_with_noise", "dtype", "The weights have noise of a thousandth.", CHANGED),
)
