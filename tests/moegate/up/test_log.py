"""The first errors in logs as vLLM writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from moegate.up import log
from moegate.up.log import failure, first_errors

CORE = "(EngineCore pid=9510) ERROR 11-29 23:05:20 [core.py:1200]"
SERVER = "(APIServer pid=8300)"
HARMLESS = (
    "(EngineCore pid=9510) ERROR 11-29 23:05:18 [kernels.py:40] Failed to import Triton kernels."
)

ENGINE_OUT_OF_MEMORY = f"""\
{SERVER} INFO 11-29 23:04:58 [model.py:744] Resolved architecture: Qwen3MoeForCausalLM
{HARMLESS}
{CORE} EngineCore failed to start.
{CORE} Traceback (most recent call last):
{CORE}   File "core.py", line 1190, in run_engine_core
{SERVER} INFO 11-29 23:05:20 [utils.py:1400] Waiting for 1 engine
{CORE}     engine_core = EngineCoreProc(*args)
{CORE}                   ^^^^^^^^^^^^^^^^^^^^^
{CORE} torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
{CORE} During handling of the above exception, another exception occurred:
(EngineCore pid=9510) Process EngineCore:
(EngineCore pid=9510) Traceback (most recent call last):
(EngineCore pid=9510) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
Traceback (most recent call last):
  File "vllm", line 8, in <module>
    sys.exit(main())
RuntimeError: Engine core initialization failed. See root cause above.
"""
BAD_CONTEXT = """\
Traceback (most recent call last):
  File "vllm", line 8, in <module>
    s.__pydantic_validator__.validate_python(ArgsKwargs(args, kwargs), self_instance=s)
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (999999) is greater than the derived one
    For further information visit a page
The rest
"""
BAD_FLAG = """\
usage: vllm [-h] [-v]
vllm: error: unrecognized arguments: --no-such-flag
"""
RUST = """\
thread 'main' panicked at src/main.rs:1:1:
"""


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        (
            ENGINE_OUT_OF_MEMORY,
            [
                "Failed to import Triton kernels.",
                "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            ],
        ),
        (BAD_CONTEXT, BAD_CONTEXT.splitlines()[3:6]),
        (BAD_FLAG, ["vllm: error: unrecognized arguments: --no-such-flag"]),
        (RUST, ["thread 'main' panicked at src/main.rs:1:1:"]),
        ("ValueError: no such model", ["ValueError: no such model"]),
        (f"{SERVER} INFO 11-29 23:04:58 [model.py:744] errors: none\nan error rate of 0\n", []),
        ("Traceback (most recent call last):\n  File", []),
        ("", []),
    ],
)
def test_the_first_errors_are_the_cause(text: str, errors: list[str]) -> None:
    assert first_errors(text.splitlines()) == errors


def test_many_error_lines_do_not_hide_the_exception() -> None:
    assert (
        first_errors([HARMLESS] * 50 + BAD_CONTEXT.splitlines())[-3:]
        == (BAD_CONTEXT.splitlines()[3:6])
    )
    assert len(first_errors([HARMLESS] * 50)) == log.ERROR_LINES


def test_what_is_read_and_shown_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with file.open("w") as output:
        output.write("ValueError: too long ago\n")
        output.write(("x" * 2000 + "\n") * (log.ERROR_BYTES // 2000 + 1))
        output.write("KeyError: " + "k" * 100_000 + "\n")
        output.write("the end\n" * log.TAIL_LINES)
    shown = failure(file)
    assert "too long ago" not in shown
    first = shown.splitlines()[1]
    assert first.startswith("  KeyError: kkk")
    assert len(first) == log.LINE_CHARACTERS + 2
    assert len(shown.splitlines()) == log.TAIL_LINES + 3
