"""The judge of an evaluation: where it is, and whether it may be spoken to."""

from __future__ import annotations

from service.api.http.problems import ApiProblem, field_error, invalid
from service.contracts.schemas.evaluation import FreeIn, FreeOptions, JudgeIn, JudgeOptions
from service.ops.addresses import AddressRefused, Allowed
from service.settings import Settings


def free_options(asked: FreeIn, settings: Settings) -> FreeOptions:
    """The options of a job; what a judge lacks comes from the settings.

    Raises:
        ApiProblem: 422, the judge has no model or no address, or the address is refused.
    """
    judge = None if asked.judge is None else _judge(asked.judge, settings)
    return FreeOptions(max_new_tokens=asked.max_new_tokens, judge=judge)


def _judge(asked: JudgeIn, settings: Settings) -> JudgeOptions:
    model = asked.model or settings.judge_model
    address = asked.address or settings.judge_address
    lacking = [
        field_error(f"/free/judge/{name}", "missing", f"no {name} is set: give one, or set {of}")
        for name, value, of in (
            ("model", model, "JEEP_JUDGE_MODEL"),
            ("address", address, "JEEP_JUDGE_ADDRESS"),
        )
        if value is None
    ]
    if model is None or address is None:
        raise invalid(lacking)
    try:
        Allowed(settings.targets_allow).place(address)
    except AddressRefused as error:
        where = "/free/judge/address"
        said = [field_error(where, error.code, str(error))]
        raise ApiProblem(error.code, f"{where}: {error}", said) from None
    return JudgeOptions(model=model, address=address, timeout_s=asked.timeout_s)
