"""Warnings about an edit that succeeded in name only."""

from __future__ import annotations

from service.contracts.schemas import EditResult

LARGE_CHANGE = 100.0
"""‖Δ‖/‖W‖ of a layer from which on a result warns: three times what any preset reaches."""


def outcome_warnings(summary: EditResult) -> list[str]:
    """Return warnings for a user who sees only that the edit succeeded.

    A change of many times the weights is not an error by itself: on the bundled models presets
    reach 31 (64 facts), in directions that ordinary keys hardly reach.
    """
    found = []
    if summary.efficacy == 0:
        found.append(
            "no fact of this edit took (efficacy 0): see each fact's outcome, and try other "
            "hparams or roll back"
        )
    elif summary.greedy_success == 0 or summary.chat_efficacy == 0:
        in_chat = "" if summary.chat_efficacy is None else f", in a chat {summary.chat_efficacy:g}"
        found.append(
            f"no fact of this edit took{_where(summary)} (greedy success "
            f"{summary.greedy_success:g}, efficacy {summary.efficacy:g}{in_chat}): the model "
            "writes other answers; see each fact's outcome, and try other hparams or roll back"
        )
    for layer in summary.layers:
        if layer.relative_norm >= LARGE_CHANGE:
            found.append(
                f"layer {layer.layer} ({layer.name}): the change is {layer.relative_norm:.3g} "
                f"times as large as the weights (‖Δ‖/‖W‖), so other answers may have suffered; "
                "a smaller learning_rate or clamp, or fewer steps, change less"
            )
    return found


def _where(summary: EditResult) -> str:
    """In which way of asking no new answer is written; nothing where there is one way only."""
    chats = [one.chat_after.writes_new for one in summary.facts if one.chat_after is not None]
    if not chats:
        return ""
    plain = any(one.after.writes_new for one in summary.facts)
    if any(chats):
        return " in both ways of asking" if plain else " on the plain prompt"
    return " in a chat" if plain else ", neither on the plain prompt nor in a chat"
