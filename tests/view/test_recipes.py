"""Recipes as a table."""

from dataclasses import replace

from vidbench.methods import coclr
from vidbench.view.recipes import differing, recipe_table


def test_a_column_a_recipe_without_paths_and_empty_fields():
    one = replace(coclr.PRESETS["tiny"].alone, manifest="/somewhere/videos")
    made = recipe_table({"one": one, "two": replace(one, queue=128)}, note="as opened")
    assert "<th" in made and ">queue<" in made and ">64<" in made and ">128<" in made
    assert "fit.epochs" in made and "as opened" in made
    assert "/somewhere" not in made and "teacher" not in made and ">topk<" in made


def test_many_fields_that_differ_are_rows_and_three_runs_a_table():
    few = [{"run": f"r{n}", "lr": n, "seed": "a"} for n in range(7)]
    assert differing(few, "n").count("<table") == 1 and differing(few).count("<th ") == 3
    many = [{"run": f"r{n}", **{f"field {f}": n for f in range(7)}} for n in range(7)]
    made = differing(many, "a note")
    assert made.count("<table") == 3 and made.count("a note") == 1
    assert made.count("<th ") == 3 + 7 and made.count("<tr") == 3 * (1 + 7)
