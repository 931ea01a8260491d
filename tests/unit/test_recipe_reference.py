"""bench/recipes/README.md, which has every key of a recipe with its default."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from bench import recipe
from bench.recipe import FOLDER, STEPS
from bench.steps import FROM_TARGET, DataOptions, Training
from bench.tune.space import _SECTIONS, _TOP
from bench.types import Protocol
from hardware_profiles.load import parse_toml

TEXT = (FOLDER / "README.md").read_text()
ABOUT = {"[data]": DataOptions, "[training]": Training, "[protocol]": Protocol} | {
    f'step = "{name}"': step for name, step in STEPS.items()
}
MORE = {'step = "distill"': {"alone": True}}


def documented(section: str) -> dict[str, str]:
    """The keys of a section's table and what stands as their default."""
    body = re.split(r"\n#+ ", TEXT.split(f" `{section}`\n", 1)[1])[0]
    return dict(re.findall(r"^\| `(\w+)` \| (?:`([^|]*)`)? ?\|", body, re.MULTILINE))


def default(field: dataclasses.Field[Any]) -> Any:
    value = None if field.default is dataclasses.MISSING else field.default
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("section", ABOUT)
def test_every_key_stands_there_with_its_default(section: str) -> None:
    hidden = ("kind", "version", "training", *FROM_TARGET)
    fields = [f for f in dataclasses.fields(ABOUT[section]) if f.name not in hidden]
    told = {k: parse_toml(f"x = {v}")["x"] if v else None for k, v in documented(section).items()}
    assert told == {f.name: default(f) for f in fields} | MORE.get(section, {})


def test_the_tables_of_a_search_stand_there() -> None:
    body = TEXT.split("## `[tune]`\n", 1)[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `\[tune\.(\w+)\]`", body, re.MULTILINE)) == set(_SECTIONS)
    own = next(line for line in body.splitlines() if line.startswith("| `[tune]`"))
    assert all(f"`{key}`" in own for key in _TOP)


def test_the_example_is_a_recipe_and_has_every_table_and_key_at_the_top() -> None:
    example = TEXT.split("```toml\n", 1)[1].split("```")[0]
    assert all(
        re.search(rf"^{key} = |^\[{key}", example, re.M) or f"## `[{key}]`" in TEXT for key in recipe._TOP
    )
    found = recipe.parse(parse_toml(example), "example", "README")
    assert {v.name for v in found.variants} >= {"teacher", "student-kd-int8", "pruned-int8"}
