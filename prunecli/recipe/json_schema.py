"""The JSON Schema of recipes, made from the registered functions' signatures, for editors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from prunecli.experiment import Experiment
from prunecli.own_code import PREFIX
from prunecli.recipe.options import schema_of
from prunecli.registry import Entry, Registry, options_of, plain

Json = dict[str, Any]  # Any: what JSON holds


def json_schema() -> Json:
    """A schema in JSON Schema's 2020-12 form, of the words that draft-07 editors know as well."""
    recipe = _object(Experiment.__doc__ or "", Experiment)
    definitions = recipe.pop("$defs", {})
    recipe["properties"]["sweep"] = {
        "description": "Dotted paths and the values that each takes; lists multiply, one run a point. Paths with a "
        "comma between them take their values together.",
        "type": "object",
        "additionalProperties": {"type": "array", "minItems": 1},
    }
    kinds: Json = {kind: _choice(registry) for kind, registry in sorted(Registry.all.items())}
    whole = {"title": "prunecli recipe", **recipe, "$defs": {**definitions, **kinds}}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_referring(whole)}


def _referring(schema: Any) -> Any:  # Any: what JSON holds
    """The schema with `among` marks turned into references."""
    if isinstance(schema, dict):
        own = {name: _referring(item) for name, item in schema.items() if name != "among"}
        return own | ({"allOf": [{"$ref": f"#/$defs/{schema['among']}"}]} if "among" in schema else {})
    return [_referring(item) for item in schema] if isinstance(schema, list) else schema


def _choice(registry: Registry) -> Json:
    """A name, or one name with its options."""
    entries = registry.entries()
    fixed = [entry for entry in entries if not entry.name.endswith(":")]
    prefixes = [entry for entry in entries if entry.name.endswith(":")]
    forms: list[Json] = [_one_key({"properties": {entry.name: _options(entry) for entry in fixed}})]
    if alone := [entry.name for entry in fixed if not _needed(entry)]:
        about = f"a {registry.one}, its options at their defaults"
        forms.insert(0, {"enum": alone, "description": about})
    for entry in prefixes:
        if not _needed(entry):
            forms.append({"type": "string", "pattern": f"^{entry.name}.+", "description": entry.summary})
        forms.append(_one_key({"patternProperties": {f"^{entry.name}.+": _options(entry)}}))
    about = f"a {registry.one} of your own, for --allow-code"
    forms.append({"type": "string", "pattern": f"^{PREFIX}.+", "description": about})
    forms.append(_one_key({"patternProperties": {f"^{PREFIX}.+": {"type": ["object", "null"]}}}))
    if registry.number is not None:
        number = next(iter(_options(registry[registry.number])["properties"].values()))
        forms.append({**number, "description": f"short for {registry.number}"})
    return {"anyOf": forms}


def _one_key(keys: Json) -> Json:
    return {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": False, **keys}


def _options(entry: Entry) -> Json:
    options = _object(entry.summary, entry.function)
    # `train:` with nothing after it is null, and means `train`.
    return options if _needed(entry) else {**options, "type": ["object", "null"]}


def _needed(entry: Entry) -> list[str]:
    """The options without a default."""
    return [name for name, option in entry.options.items() if option.default is option.empty]


def _object(description: str, function: Callable[..., Any]) -> Json:
    """The schema of a function's options, or of a dataclass's fields."""
    schema = schema_of(function).model.model_json_schema()
    schema.pop("title", None)
    schema["description"] = " ".join(description.split())
    for name, option in schema.get("properties", {}).items():
        option.pop("title", None)
        if "default" in option:
            # pydantic has no word for a choice; the recipe's form does.
            default = options_of(function)[name].default
            option["default"] = plain(default.model_dump() if isinstance(default, BaseModel) else default)
    return schema
