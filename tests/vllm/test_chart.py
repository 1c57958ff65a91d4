"""The chart's vLLM pod on a real vLLM (CPU build): its flags, its user, its end."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.stack.chart.helm import NAMESPACE, Rendered, new_helm
from tests.stack.chart.sandbox import in_sandbox
from tests.stack.chart.test_chart_runs import KEY, lay_out
from tests.vllm.launch import ENVIRONMENT, build_model, unsupported_cpu, vllm_venv

PARSE = """
import json, sys
try:
    from vllm.entrypoints.common.cli_args import make_arg_parser, validate_parsed_serve_args
except ImportError:  # 0.32
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser
parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(json.load(sys.stdin))
validate_parsed_serve_args(parsed)
names = ("model_tag", "data_parallel_size", "enable_expert_parallel", "shutdown_timeout")
print(json.dumps({name: getattr(parsed, name) for name in names}))
"""


def vllm_args(rendered: Rendered) -> list[str]:
    spec = rendered.one("StatefulSet", "x-moegate-vllm")["spec"]["template"]["spec"]
    args: list[str] = spec["containers"][0]["args"]
    return args


@pytest.mark.parametrize("example", ["one-node", "deepseek-8xh200"])
def test_the_rendered_flags_are_those_of_a_real_vllm(example: str) -> None:
    rendered = new_helm().render({"vllmDefaults": {"kvEvents": {"enabled": True}}}, example=example)
    done = subprocess.run(
        [vllm_venv() / "bin" / "python", "-c", PARSE],
        input=json.dumps(vllm_args(rendered)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    parsed = json.loads(done.stdout.splitlines()[-1])
    values = yaml.safe_load((Path("helm/moegate/examples") / f"{example}.yaml").read_text())
    (expected,) = values["vllm"]
    assert parsed["model_tag"] == expected["model"]
    assert parsed["enable_expert_parallel"] is expected["enableExpertParallel"]
    assert parsed["data_parallel_size"] == expected.get("dataParallelSize", 1)
    assert parsed["shutdown_timeout"] == expected.get("shutdownTimeoutSeconds", 600)


def test_the_rendered_pods_run_together_and_streams_outlive_vllms_end(tmp_path: Path) -> None:
    if reason := unsupported_cpu():
        pytest.skip(reason)
    venv = vllm_venv()
    values: dict[str, Any] = {
        "preStopSeconds": 1,
        "config": {"server": {"drain_delay_s": 3}},
        "vllm": [
            {
                "model": "/etc/moegate/model",
                "servedModelName": "tiny-moe",
                "gpu": {"type": "CPU"},
                "enableExpertParallel": False,
                "extraVolumeMounts": [{"name": "model", "mountPath": "/etc/moegate/model"}],
                "extraVolumes": [{"name": "model", "emptyDir": {}}],
                "maxModelLen": 8192,
                "maxNumSeqs": 32,
                "preStopSeconds": 3,
                "extraArgs": [
                    "--dtype=bfloat16",
                    "--enforce-eager",
                    "--num-gpu-blocks-override=600",
                ],
            }
        ],
    }
    helm = new_helm()
    rendered = helm.render(values, example="one-node")
    lay_out(rendered, tmp_path / "etc")
    # The model's own files are for their owner alone.
    shutil.copytree(build_model(venv), tmp_path / "etc" / "model")
    (test,) = rendered.one("Pod", "x-moegate-test")["spec"]["containers"]
    task = {
        "deployment": rendered.one("Deployment"),
        "stateful_set": rendered.one("StatefulSet", "x-moegate-vllm"),
        "vllm": str(venv / "bin" / "vllm"),
        "cpu": ENVIRONMENT | {"VLLM_HOST_IP": "127.0.0.1"},
        "found": f"x-moegate-vllm.{NAMESPACE}.svc",
        "service": f"x-moegate.{NAMESPACE}.svc",
        "key": f"{KEY}-me",
        "commands": {"helm test": test["args"]},
    }
    (tmp_path / "etc" / "task.json").write_text(json.dumps(task))
    command = [sys.executable, "-m", "tests.stack.chart.kubelet", "/etc/moegate/task.json"]
    output = in_sandbox(command, tmp_path / "etc", timeout_s=900)
    outlived = re.search(r"streams that outlived SIGTERM: ([0-9]+)", output)
    assert outlived, output
    assert int(outlived[1]) > 0, output
    assert "vLLM ended with 0" in output, output
    assert output.rstrip().endswith("ended well"), output
