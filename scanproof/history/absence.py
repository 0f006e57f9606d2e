"""Why a number finds no baseline in a history although it has one, had one, or may have had one."""

from __future__ import annotations

from scanproof.history.baseline import DECLARE, RESTORE_DECLARATION, RESTORE_RUN, Baselines
from scanproof.history.due_before import MEND_RUN, Held, OtherRuns, describe_unread
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.paired_tests import PairedComparison, refuse

FORGOTTEN = (
    "name the history that has it, or declare a run that measured it: scanproof baseline set RUN --reason WHY; to "
    "compare it no more, declare a run that did not measure it, with --without JOB:TASK"
)


def explain_absence(
    opened: Baselines, value: PublishedValue, gpu: str | None, others: OtherRuns
) -> PairedComparison | None:
    """Refused where a number may find no baseline and has one, or had one; None where it never had.

    It has one on this GPU, of another evaluation; or it had one in another run of the store, and none that was declared
    since leaves it out by name; or nobody knows.

    Args:
        gpu: where the number was, or will be, measured; None: it is not known.
        others: the other runs of the store.

    Raises:
        HistoryError: the baselines cannot be read.
    """
    if opened.unreadable:
        because = f"it is not known which numbers have one: {opened.unreadable[0]}"
        return refuse(value.id, "its baseline", because, RESTORE_DECLARATION if opened.lost else RESTORE_RUN)
    holder = opened.find_holder(value, gpu)
    if holder is not None:
        because = "it was declared for another evaluation of this number"
        return refuse(value.id, holder.name, because, DECLARE)
    for held in others.held.get(value.id, ()):
        if not opened.leaves_out(value, others.gpu, held):
            because = f"{opened.history.place.name} has no declared baseline of it, and run {held.run} had one"
            return refuse(value.id, "its baseline", because, FORGOTTEN)
    unread = [run for run in others.unread if not opened.leaves_out(value, others.gpu, Held(run, None))]
    if unread:
        because = f"it has none, and it is not known whether it had one: {describe_unread(unread)}"
        return refuse(value.id, "its baseline", because, MEND_RUN)
    return None
