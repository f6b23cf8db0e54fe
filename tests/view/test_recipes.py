"""Recipes as a table."""

from dataclasses import replace

from vidbench.methods import coclr
from vidbench.view.recipes import recipe_table


def test_a_column_a_recipe_without_paths_and_empty_fields():
    one = replace(coclr.PRESETS["tiny"].alone, manifest="/somewhere/videos")
    made = recipe_table({"one": one, "two": replace(one, queue=128)}, note="as opened")
    assert "<th" in made and ">queue<" in made and ">64<" in made and ">128<" in made
    assert "fit.epochs" in made and "as opened" in made
    assert "/somewhere" not in made and "teacher" not in made and ">topk<" in made
