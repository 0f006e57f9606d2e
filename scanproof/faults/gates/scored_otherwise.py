"""Faults in what is made of the answers: answers, scores, means, groups; and in the network itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scanproof.faults.gates.wrap import wrap

Answers = list[tuple[float, bool]]
"""Log-likelihoods in nats, and whether each answer is greedy."""


def change_scores(change: Callable[[Any, Any, Any, dict[str, Any]], dict[str, Any]]) -> None:
    """Change the scores of each document: from the task, the document, its answers and the right scores."""
    from lm_eval.api.task import ConfigurableTask

    def around(right: Any, self: Any, doc: Any, results: Any) -> Any:
        return change(self, doc, results, right(self, doc, results))

    wrap(ConfigurableTask, "process_results", around)


def normalise_by(length: Callable[[str], float]) -> None:
    """Divide each log-likelihood by another length before the likeliest is taken, for `acc_norm`."""

    def change(task: Any, doc: Any, results: Any, scores: dict[str, Any]) -> dict[str, Any]:
        lengths = [length(choice) for choice in task.doc_to_choice(doc)]
        weighed = [answer[0] / size for answer, size in zip(results, lengths, strict=True)]
        best = max(range(len(weighed)), key=weighed.__getitem__)
        return {**scores, "acc_norm": float(best == task.doc_to_target(doc))}

    change_scores(change)


def normalised_by_words() -> None:
    normalise_by(lambda choice: len(choice.split()))


def normalised_by_nothing() -> None:
    normalise_by(lambda choice: 1)


def normalised_by_square_root() -> None:
    normalise_by(lambda choice: len(choice) ** 0.5)


def change_accuracy(choose: Callable[[list[float]], int]) -> None:
    """Take another answer than the likeliest for `acc`."""

    def change(task: Any, doc: Any, results: Any, scores: dict[str, Any]) -> dict[str, Any]:
        best = choose([answer[0] for answer in results])
        return {**scores, "acc": float(best == task.doc_to_target(doc))}

    change_scores(change)


def least_likely_answer() -> None:
    change_accuracy(lambda answers: answers.index(min(answers)))


def answers_compared_in_whole_nats() -> None:
    change_accuracy(lambda answers: [round(answer) for answer in answers].index(max(round(a) for a in answers)))


def first_answer_of_half_a_nat() -> None:
    change_accuracy(lambda answers: next(i for i, answer in enumerate(answers) if answer > max(answers) - 0.5))


def one_score_flipped() -> None:
    count = iter(range(1 << 62))

    def change(task: Any, doc: Any, results: Any, scores: dict[str, Any]) -> dict[str, Any]:
        return {**scores, "acc": 1.0 - scores["acc"]} if next(count) == 5 else scores

    change_scores(change)


def two_scores_flipped_that_cancel() -> None:
    waiting = [0.0, 1.0]

    def change(task: Any, doc: Any, results: Any, scores: dict[str, Any]) -> dict[str, Any]:
        if scores["acc"] in waiting:
            waiting.remove(scores["acc"])
            return {**scores, "acc": 1.0 - scores["acc"]}
        return scores

    change_scores(change)


def perplexity_in_bits() -> None:
    change_scores(
        lambda task, doc, results, scores: {name: value / 0.6931471805599453 if name == "perplexity" else value
                                            for name, value in scores.items()}
    )  # fmt: skip


def mass_not_normalised() -> None:
    from math import exp

    def change(task: Any, doc: Any, results: Any, scores: dict[str, Any]) -> dict[str, Any]:
        labels = doc["mc2_targets"]["labels"]
        return {"acc": sum(exp(answer[0]) for answer, label in zip(results, labels, strict=True) if label)}

    change_scores(change)


def change_log_likelihoods(change: Callable[[list[Any], Answers], Answers]) -> None:
    """Change what the model answers to all requests of a job."""
    import lm_eval.evaluator as evaluator

    def around(right: Any, lm: Any, *args: Any, **options: Any) -> Any:
        answer = lm.loglikelihood
        lm.loglikelihood = lambda requests, *more, **others: change(requests, answer(requests, *more, **others))
        return right(lm, *args, **options)

    wrap(evaluator, "evaluate", around)


def all_answers_nan() -> None:
    change_log_likelihoods(lambda requests, answers: [(float("nan"), greedy) for _, greedy in answers])


def one_answer_nan() -> None:
    change_log_likelihoods(lambda requests, answers: [(float("nan"), False), *answers[1:]])


def one_answer_infinite() -> None:
    change_log_likelihoods(lambda requests, answers: [(float("-inf"), False), *answers[1:]])


def all_answers_equal() -> None:
    change_log_likelihoods(lambda requests, answers: [(-10.0, False)] * len(answers))


def answers_of_the_neighbour() -> None:
    change_log_likelihoods(lambda requests, answers: [answers[index - index % 2] for index in range(len(answers))])


def two_answers_swapped() -> None:
    change_log_likelihoods(lambda requests, answers: [answers[1], answers[0], *answers[2:]])


def answers_in_half_precision() -> None:
    def change(requests: list[Any], answers: Answers) -> Answers:
        import torch

        return [(float(torch.tensor(value).bfloat16()), greedy) for value, greedy in answers]

    change_log_likelihoods(change)


def answers_off_by_a_little() -> None:
    change_log_likelihoods(lambda requests, answers: [(value + 3e-4, greedy) for value, greedy in answers])


def answers_too_likely() -> None:
    change_log_likelihoods(lambda requests, answers: [(value * 0.97, greedy) for value, greedy in answers])


def always_greedy() -> None:
    change_log_likelihoods(lambda requests, answers: [(value, True) for value, _ in answers])


def greedy_if_likely() -> None:
    change_log_likelihoods(lambda requests, answers: [(value, value > -1.5) for value, _ in answers])


def change_aggregates(change: Callable[[dict[str, Any], dict[Any, list[Any]]], dict[str, Any]]) -> None:
    """Change the aggregates of a task: from the right ones and the scores of all documents by metric and filter."""
    import lm_eval.evaluator_utils as utils

    def around(right: Any, task: Any, raw_metrics: Any, *args: Any, **options: Any) -> Any:
        aggregates, count = right(task, raw_metrics, *args, **options)
        return change(dict(aggregates), raw_metrics), count

    wrap(utils, "_compute_task_aggregations", around)


def change_mean(mean: Callable[[list[float]], float]) -> None:
    change_aggregates(lambda aggregates, raw: {
        name: mean(raw["acc", "none"]) if name == "acc,none" else value for name, value in aggregates.items()
    })  # fmt: skip


def mean_without_the_last_documents() -> None:
    change_mean(lambda scores: sum(scores[:-6]) / len(scores[:-6]))


def mean_divided_by_one_less() -> None:
    change_mean(lambda scores: sum(scores) / (len(scores) - 1))


def mean_rounded() -> None:
    change_mean(lambda scores: round(sum(scores) / len(scores), 1))


def stderr_halved() -> None:
    change_aggregates(lambda aggregates, raw: {
        name: value / 2 if "_stderr" in name and isinstance(value, float) else value
        for name, value in aggregates.items()
    })  # fmt: skip


def perplexity_of_the_median() -> None:
    from math import exp
    from statistics import median

    change_aggregates(lambda aggregates, raw: {
        name: exp(-median(raw["perplexity", "none"])) if name == "perplexity,none" else value
        for name, value in aggregates.items()
    })  # fmt: skip


def change_groups(change: Callable[[list[float], list[int]], float]) -> None:
    """Change how a group's value is made of its tasks' values and sizes."""
    import lm_eval.api.metrics as metrics

    metrics.aggregate_subtask_metrics = lambda values, sizes, weight_by_size=True: change(list(values), list(sizes))


def one_task_left_out_of_a_group() -> None:
    change_groups(lambda values, sizes: sum(v * s for v, s in zip(values[1:], sizes[1:], strict=True)) / sum(sizes[1:]))


def one_task_twice_in_a_group() -> None:
    def change(values: list[float], sizes: list[int]) -> float:
        values, sizes = [*values, values[0]], [*sizes, sizes[0]]
        return sum(v * s for v, s in zip(values, sizes, strict=True)) / sum(sizes)

    change_groups(change)


def weights_of_a_group_by_place() -> None:
    def change(values: list[float], sizes: list[int]) -> float:
        weights = range(1, len(values) + 1)
        return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)

    change_groups(change)


def median_of_a_group() -> None:
    change_groups(lambda values, sizes: sorted(values)[len(values) // 2])


def change_network(change: Callable[[Any], None]) -> None:
    """Change the network after its checkpoint was loaded."""
    from lm_eval.models.huggingface import HFLM

    def around(right: Any, self: Any, *args: Any, **options: Any) -> None:
        right(self, *args, **options)
        change(self.model)

    wrap(HFLM, "__init__", around)


def weights_through_bfloat16() -> None:
    change_network(lambda network: network.bfloat16().float() and None)


def network_in_bfloat16() -> None:
    change_network(lambda network: network.bfloat16() and None)


def network_in_float16() -> None:
    change_network(lambda network: network.half() and None)


def last_layer_skipped() -> None:
    def change(network: Any) -> None:
        import torch

        with torch.no_grad():
            names = [name for name, _ in network.named_parameters() if "out_proj" in name]
            dict(network.named_parameters())[names[-1]].zero_()

    change_network(change)


def weights_with_noise() -> None:
    def change(network: Any) -> None:
        import torch

        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1 + 1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))

    change_network(change)
