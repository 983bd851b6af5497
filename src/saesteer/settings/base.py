"""What every part of the configuration shares: strict models, factors, lists without repetition."""

import re
from decimal import Context, Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from saesteer.core.errors import SettingsError
from saesteer.core.files import leads_below

LARGEST, SMALLEST = 10_000, 1e-9
"""Sizes of factors and temperatures that are not 0. 100 is the largest factor that any paper tries; a model's numbers overflow at some
factor, and what is written then tells nothing. What is smaller is lost in rounding, or makes logits overflow that are divided by it."""

DOWNLOADS, DERIVED = "downloads", "derived"
"""Folders of data_dir that are no experiment's: what was fetched, and the files of the experiments that are derived from others."""


def _without_booleans(schema: Any) -> Any:
    """A schema whose numbers are no booleans, which pydantic takes for 1 and 0."""
    if isinstance(schema, dict):
        inner = {key: _without_booleans(value) for key, value in schema.items()}
        return core_schema.no_info_before_validator_function(_no_boolean, inner) if schema.get("type") in ("int", "float") else inner
    return type(schema)(map(_without_booleans, schema)) if isinstance(schema, list | tuple) else schema


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _without_booleans(handler(source))


def canonical_factor(value: Any) -> str:
    """A factor as it is written in keys: the shortest plain decimal, so that 2, 2.0 and "2.00" are one key. Below 0 it steers away."""
    try:
        number = Decimal(str(value)).normalize()
    except InvalidOperation as error:
        raise SettingsError(f"{value!r} is no decimal number") from error
    if not number.is_finite() or abs(number) > LARGEST or (number and abs(float(number)) < SMALLEST):
        raise SettingsError(
            f"a factor is a number from -{LARGEST} to {LARGEST}, not {value!r}: already at some hundred nothing is left of what the model"
            f" read, and below {SMALLEST:g} nothing of it changes"
        )
    return format(number, "f") if number else "0"


def three_digits(value: float | Decimal) -> str:
    """A factor that was computed, to three significant digits, as it is written in keys."""
    return canonical_factor(Context(prec=3).create_decimal(str(value)))


def check_temperature(value: float) -> float:
    """A temperature of sampling, by which logits are divided; 0 takes the likeliest token."""
    if value != 0 and not SMALLEST <= value <= LARGEST:
        raise SettingsError(f"a temperature is 0, for the likeliest token, or from {SMALLEST:g} to {LARGEST}, not {value!r}")
    return value


def _not_negative(factor: str) -> str:
    if float(factor) < 0:
        raise SettingsError(f"a factor here is at least 0, not {factor}")
    return factor


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse a list that holds a value twice."""
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"given more than once: {', '.join(map(str, repeated))}")
    return values


def path_below(value: str) -> str:
    """A path in an archive, which leads nowhere but below the folder that it is unpacked into; any other is refused."""
    if not leads_below(value):
        raise SettingsError(f"{value!r} is no path below a folder, written with `/` and without `..`")
    return value


def experiment_name(value: str) -> str:
    """A name that can be a folder's, and part of a pattern and of a command line; any other is refused."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise SettingsError(
            f"{value!r} cannot name an experiment: letters, digits, points, hyphens and underscores, a letter or digit first, can"
        )
    if value in (DOWNLOADS, DERIVED):
        raise SettingsError(f"{value!r} cannot name an experiment: the folder of that name keeps other things; take another name")
    return value


ExperimentName = Annotated[str, AfterValidator(experiment_name)]
Factor = Annotated[str, BeforeValidator(canonical_factor, json_schema_input_type=float | str)]
NonNegativeFactor = Annotated[Factor, AfterValidator(_not_negative)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Temperature = Annotated[float, Field(ge=0), AfterValidator(check_temperature)]
Layers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(unique)]
