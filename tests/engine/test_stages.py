"""Many runs: parents first, complete ones skipped, a failure named, what is finished kept."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import pytest

from tests import ROOT, stages
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, RunError
from vidbench.engine.stages import run_all


@dataclass(frozen=True)
class Recipe:
    """Of the stage below: a regression that starts from nothing, but may wait for a parent."""

    method: ClassVar[str] = "test_stages"
    home: ClassVar[str] = __name__
    fit: Fit = Fit(epochs=1, batch=16)
    student: str = ""
    poison: int = -1
    pause: float = 0.0  # seconds a step

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.student,) if self.student else ()


def train(recipe: dict, folder: str, progress: str, threads: int) -> str:
    """What run_all calls: refuses to start before its parent is complete."""
    from vidbench.engine.runs import recipe_from

    made = recipe_from(Recipe, recipe)
    if made.student and Run(made.student).state != "complete":
        raise RunError("started before its parent was complete")
    return stages.regress_as(
        "test_stages", made, made.fit, folder, poison=made.poison, pause=made.pause
    )


def test_parents_come_first_and_complete_runs_are_left_alone(tmp_path):
    child = Recipe(student=str(tmp_path / "a" / "parent"))
    recipes = {"a/child": child, "a/parent": Recipe(), "b": Recipe()}
    run_all(recipes, tmp_path, processes=2)
    assert all(Run(tmp_path / name).state == "complete" for name in recipes)
    before = {name: (tmp_path / name / "status.json").stat().st_mtime_ns for name in recipes}
    run_all(recipes, tmp_path, processes=2)
    assert before == {
        name: (tmp_path / name / "status.json").stat().st_mtime_ns for name in recipes
    }


def test_a_failure_is_named_and_the_same_call_goes_on(tmp_path):
    recipes = {"good": Recipe(), "bad": Recipe(poison=3, student=str(tmp_path / "good"))}
    with pytest.raises(RuntimeError, match="the run bad failed: .*the loss is nan"):
        run_all(recipes, tmp_path, processes=1)
    assert Run(tmp_path / "good").state == "complete" and Run(tmp_path / "bad").state == "failed"
    with pytest.raises(RunError, match="poison is 3 there, -1 here"):
        run_all({"bad": Recipe(student=str(tmp_path / "good"))}, tmp_path)


def test_runs_that_wait_for_one_another_are_refused(tmp_path):
    ring = {"a": Recipe(student=str(tmp_path / "b")), "b": Recipe(student=str(tmp_path / "a"))}
    with pytest.raises(ValueError, match=r"wait for one another: \['a', 'b'\]"):
        run_all(ring, tmp_path)


@pytest.mark.slow
def test_ctrl_c_ends_all_even_where_one_process_is_idle_and_one_saves_itself(tmp_path):
    """The idle one dies with the lock of the queue of work in its hands, for which the other
    would wait without end. A notebook shows the stop as a sentence."""
    script = tmp_path / "script.py"
    script.write_text("""if __name__ == "__main__":
    import signal
    from IPython.core.interactiveshell import InteractiveShell
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has its children ignore it
    shell = InteractiveShell.instance()
    shell.kernel = True  # as in a notebook
    ran = shell.run_cell('''
from tests.engine.test_stages import Fit, Recipe, run_all
slow = Fit(epochs=9, batch=16, log_every=1)
run_all({"slow": Recipe(fit=slow, pause=1.5), "quick": Recipe()}, ".")
''')
    raise SystemExit(0 if ran.success else 3)
""")
    place = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "PYTHONPATH": place, "VIDBENCH_HEADLESS": "0"}
    process = subprocess.Popen(
        [sys.executable, script], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while not (
            (tmp_path / "slow" / "metrics.jsonl").exists()
            and (tmp_path / "quick" / "status.json").exists()
            and Run(tmp_path / "quick").state == "complete"
        ):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.2)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)  # a nervous second one: the run still saves itself
        out = " ".join(process.communicate(timeout=60)[0].split())
        assert process.returncode == 3
    finally:
        process.kill()
    assert Run(tmp_path / "slow").state == "interrupted"
    said = "1 of 2 runs is complete; saved: slow. The same call resumes it."
    assert said in out and "Traceback" not in out and "KeyboardInterrupt" not in out
