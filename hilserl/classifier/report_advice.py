"""What the numbers mean, and what to do next, in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from hilserl.classifier.metrics import Scored
from hilserl.classifier.metrics_coverage import OUTCOMES
from hilserl.classifier.metrics_summary import Summary
from hilserl.classifier.report_parts import many, of_total, percent
from hilserl.classifier.report_plots import Losses

ENOUGH_EPISODES = 20
"""Fewer held-out episodes than this leave every interval too wide to decide on."""
GOOD_LOW = 0.9
"""Lower end of the accuracy's interval from which a classifier may be tried live."""
GOOD_CALLED = 0.8
"""Share of successes that must be called."""
WEAK_CALIBRATION = 0.1
LIVE_MOMENTS = 50
"""Moments judged by eye before a classifier pays rewards."""
_NAMED = 6
"""So many episodes are named in a sentence."""


def standing(summary: Summary, allowed: float) -> tuple[str, str, str]:
    """(good, fair or bad; a few words; a sentence) on the classifier. allowed: share of false successes."""
    confusion = summary.confusion
    with_success, failed = confusion.called_rate, confusion.false_rate
    if not with_success.total or not failed.total:
        missing = "with a success" if not with_success.total else "without a success"
        return "bad", "Cannot be judged", f"There is no held-out episode {missing}."
    wrong = []
    if (failed.value or 0.0) > allowed:
        wrong.append(
            f"success was called in {of_total(failed)} failed episodes (wished: at most {percent(allowed)})"
        )
    if confusion.early > allowed * with_success.total:
        wrong.append(f"it was called at the wrong time in {confusion.early} of {with_success.total} episodes")
    if (with_success.value or 0.0) < GOOD_CALLED:
        wrong.append(f"only {of_total(with_success)} successes were called")
    few = len(summary.episodes) < ENOUGH_EPISODES
    if not few and summary.accuracy.low < GOOD_LOW:
        wrong.append(f"as few as {percent(summary.accuracy.low)} of frames may be right")
    if wrong:
        text = " and ".join(wrong)
        return "bad", "Not ready", f"{text[0].upper()}{text[1:]}."
    if few:
        sentence = f"{many(len(summary.episodes), 'episode')} say too little: the intervals are wide."
        return "fair", "Too few episodes", sentence
    return "good", "Ready for a live trial", "It holds on episodes it was not trained on."


def advice(summary: Summary, allowed: float, losses: Sequence[Losses]) -> list[str]:
    """What to do next, the most useful first (HTML)."""
    found: list[str] = []
    confusion = summary.confusion
    if not confusion.called_rate.total:
        found.append("Record and label episodes with a success; without them there is nothing to learn.")
    if not confusion.false_rate.total:
        found.append("Record failures: near misses above all, they look most like a success.")
    if len(summary.episodes) < ENOUGH_EPISODES:
        found.append(f"Record more: at least {ENOUGH_EPISODES} episodes, half of them failures.")
    false = _named(summary, [call.false for call in summary.calls])
    if false:
        found.append(
            f"Success was called where there is none in {false}. Look at the strips below: if the label is "
            "wrong, correct it; if it is right, record more near misses of that kind."
        )
    missed = _named(summary, [call.missed for call in summary.calls])
    if missed:
        found.append(
            f"Success was never called in {missed}. Check where its label begins; then record more successes "
            "that look like these."
        )
    warnings = summary.coverage.warnings
    if warnings:
        shown = "; ".join(escape(text) for text in warnings[:4])
        more = f"; and {len(warnings) - 4} more" if len(warnings) > 4 else ""
        found.append(f"Cover the conditions it will meet: {shown}{more}.")
    error = summary.calibration.error
    if error is not None and error > WEAK_CALIBRATION:
        found.append(
            f"Its probabilities are off by {percent(error)} on average: trust the decision, not the number."
        )
    if _still_falling(losses):
        found.append("The held-out loss still fell when training ended: raise <code>max_epochs</code>.")
    found.append(
        f"Watch it live with <code>hilserl classifier preview</code>, and judge at least {LIVE_MOMENTS} "
        "moments by eye before it pays rewards: these episodes come from the days they were recorded on."
    )
    return found


def _named(summary: Summary, which: Sequence[bool]) -> str:
    """Episodes in words, with what was done in them; "" without any."""
    chosen = [one for one, picked in zip(summary.episodes, which, strict=True) if picked]
    if not chosen:
        return ""
    names = ", ".join(escape(one.episode) for one in chosen[:_NAMED])
    kinds = Counter(kind for one in chosen if (kind := kind_of(one)))
    told = ", ".join(f"{count} {escape(kind)}" for kind, count in kinds.most_common(3))
    etc = ", ..." if len(chosen) > _NAMED else ""
    return f"{many(len(chosen), 'episode')} ({names}{etc}{f'; {told}' if told else ''})"


def kind_of(one: Scored) -> str:
    """What was done in an episode, in a word; "" where nobody said. Not escaped."""
    return next((str(one.facts[fact]) for fact in OUTCOMES if fact in one.facts), "")


def _still_falling(losses: Sequence[Losses]) -> bool:
    """Most folds had their lowest held-out loss in their last epoch."""
    folds = [fold for fold in losses if fold]
    at_end = sum(min(fold, key=lambda point: point[2])[0] == fold[-1][0] for fold in folds)
    return 2 * at_end > len(folds)
