import measure as m
import pydantic

<<CELL>>

valid = {name: value for name, value in {"sku": "a-1", "quantity": 2, "price": 9.5}.items() if name in OrderIn.model_fields}
hostile = {
    'quantity "7"': {"quantity": "7"}, "quantity 2.0": {"quantity": 2.0}, "quantity true": {"quantity": True},
    "quantity -5": {"quantity": -5}, "a field nobody declared": {"is_admin": True}, "sku of 1 MB": {"sku": "a" * 10**6},
    "price NaN": {"price": float("nan")},
}  # fmt: skip


def accepts(order: dict[str, object]) -> bool:
    try:
        OrderIn.model_validate(order)
    except pydantic.ValidationError:
        return False
    return True


without_note = accepts(valid)
accepted = [name for name, change in hostile.items() if accepts({**valid, "note": None, **change})]
m.verdict(
    without_note and not accepted,
    f"order without note {'accepted' if without_note else 'refused'}; of {len(hostile)} hostile orders accepted: {', '.join(accepted) or 'none'}",
)
