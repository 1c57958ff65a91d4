"""LoRA adapters of the simulated vLLM: which are loaded, and the bodies that load and unload them.

An adapter is a name with a path. Its weights change nothing in the answers, but its requests share
no cached prefix with others, and at most `max_loras` adapters run at once.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class LoadBody(msgspec.Struct):
    """Body of /v1/load_lora_adapter."""

    lora_name: str = ""
    lora_path: str = ""
    load_inplace: bool = False


class UnloadBody(msgspec.Struct):
    """Body of /v1/unload_lora_adapter."""

    lora_name: str = ""


decode_load = msgspec.json.Decoder(LoadBody).decode
decode_unload = msgspec.json.Decoder(UnloadBody).decode


class AdapterRefused(Exception):
    """An adapter is not loaded or unloaded. `status`, `kind`: of the error answer."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


def module_of(text: str) -> tuple[str, str]:
    """Name and path of NAME=PATH, as --lora-modules takes them. Raises ValueError."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ValueError(f"{text!r}: write NAME=PATH")
    return name, path


class LoadedAdapters:
    """The adapters of a server."""

    def __init__(self, modules: Iterable[tuple[str, str]], max_loras: int) -> None:
        """`modules`: names and paths."""
        self.paths = dict(modules)
        self.max_loras = max_loras
        self._samples: dict[str, float] = {}

    def load(self, body: LoadBody, served: str) -> str:
        """Loads an adapter and returns vLLM's text. Raises AdapterRefused."""
        name, path = body.lora_name, body.lora_path
        if not name or not path:
            text = "Both 'lora_name' and 'lora_path' must be provided."
            raise AdapterRefused(400, "InvalidUserInput", text)
        if name == served:
            text = f"The lora adapter '{name}' conflicts with a served base model."
            raise AdapterRefused(400, "InvalidUserInput", text)
        if name in self.paths and not body.load_inplace:
            text = (
                f"The lora adapter '{name}' has already been loaded. If you want to load the"
                " adapter in place, set 'load_inplace' to True."
            )
            raise AdapterRefused(400, "InvalidUserInput", text)
        self.paths[name] = path
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, body: UnloadBody) -> str:
        """Unloads an adapter and returns vLLM's text. Raises AdapterRefused."""
        name = body.lora_name
        if not name:
            text = "'lora_name' needs to be provided to unload a LoRA adapter."
            raise AdapterRefused(400, "InvalidUserInput", text)
        if name not in self.paths:
            text = f"The lora adapter '{name}' cannot be found."
            raise AdapterRefused(404, "NotFoundError", text)
        del self.paths[name]
        return f"Success: LoRA adapter '{name}' removed successfully."

    def samples(
        self, active: Iterable[str], now_unix_s: float
    ) -> list[tuple[dict[str, str], float]]:
        """Labels and values of `vllm:lora_requests_info`: like vLLM one sample for each set of
        adapters that was ever seen, with the time when it was seen last. vLLM names each adapter
        with a request in both labels, whether it runs or waits. `active`: of these requests."""
        self._samples[",".join(dict.fromkeys(active))] = now_unix_s
        return [
            (
                {
                    "max_lora": str(self.max_loras),
                    "running_lora_adapters": names,
                    "waiting_lora_adapters": names,
                },
                at_s,
            )
            for names, at_s in self._samples.items()
        ]
