"""Ways to corrupt shared models and checkpoints."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from vlm.checkpoint.sharing import CONFIG, WEIGHTS

Spoil = Callable[[Path], Path | None]

VALUES: list[Any] = [
    None, True, -1, 0, 10**9, 10**40, 1.5, 1e308, "", "x" * 100_000, "\ud800", "a\x1b[2J\nb",
    [], [[]], {}, {"a": 1}, [None], {"class_path": "os.system"}, {"class_path": None},
]  # fmt: skip
"""In the place of any value of a configuration."""

DEEP: Any = 1
for _ in range(200):
    DEEP = [DEEP]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a configuration; only the first item of each list."""
    if at:
        yield at
    inner: Any = value.items() if isinstance(value, dict) else ()
    for key, item in list(enumerate(value))[:1] if isinstance(value, list) else inner:
        yield from places(item, (*at, key))


def put(config: Any, at: tuple[Any, ...], value: Any) -> Any:
    """A copy of the configuration with another value at this path."""
    made = deepcopy(config)
    inside = made
    for key in at[:-1]:
        inside = inside[key]
    inside[at[-1]] = value
    return made


def without(config: Any, at: tuple[Any, ...]) -> Any:
    """A copy of the configuration without the value at this path."""
    made = deepcopy(config)
    inside = made
    for key in at[:-1]:
        inside = inside[key]
    del inside[at[-1]]
    return made


def configurations(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Configurations with one value removed, or replaced by one of `VALUES`."""
    for at in places(config):
        name = ".".join(map(str, at))
        if not isinstance(at[-1], int):
            yield f"without {name}", without(config, at)
            yield f"{name} nested", put(config, at, DEEP)
        for value in VALUES:
            yield f"{name} = {value!r:.20}", put(config, at, value)


def shared_config(made: Any) -> Spoil:
    """Replace the configuration with this."""

    def spoil(folder: Path) -> None:
        (folder / CONFIG).write_text(json.dumps(made))

    return spoil


def shared_weights(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Change the weights and update their checksum."""

    def spoil(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS)
        signed(folder)

    return spoil


def signed(folder: Path) -> None:
    """Update the checksum of the weights."""
    config = json.loads((folder / CONFIG).read_text())
    config["weights"]["sha256"] = sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / CONFIG).write_text(json.dumps(config))


def header(content: bytes) -> Spoil:
    """Replace the weights file with these bytes and update the checksum."""

    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(content)
        signed(folder)

    return spoil


def _lie(**tensor: Any) -> bytes:
    text = json.dumps(
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | tensor}
    ).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4)


def placed(name: str, make: Callable[[Path], Any]) -> Spoil:
    """Replace a file with something else."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return spoil


def raw(content: bytes) -> Spoil:
    """Replace the configuration with these bytes."""
    return lambda folder: (folder / CONFIG).write_bytes(content) and None


def files(name: str) -> dict[str, Spoil]:
    """Replacements for a file, such as a folder."""
    return {
        f"{name} a folder": placed(name, Path.mkdir),
        f"{name} a FIFO": placed(name, os.mkfifo),
        f"{name} a device": placed(name, lambda path: path.symlink_to("/dev/zero")),
        f"{name} a link to passwd": placed(name, lambda path: path.symlink_to("/etc/passwd")),
        f"{name} a loop": placed(name, lambda path: path.symlink_to(path.name)),
        f"{name} a tar": placed(name, lambda path: path.write_bytes(b"ustar" * 200)),
        f"{name} nothing": placed(name, lambda path: None),
    }


SHARED: dict[str, Spoil] = {
    **files(CONFIG),
    **files(WEIGHTS),
    "twice": raw(b'{"format": 1, "format": 1}'),
    "NaN": raw(b'{"format": NaN}'),
    "huge number": raw(b'{"format": ' + b"9" * 10_000 + b"}"),
    "long text": raw(b'{"format": "' + b"x" * 100_000_000 + b'"}'),
    "deep": raw(b'{"a":' * 100_000),
    "wide": raw(b'{"format":1,"model":' + b"[" * 400 + b"]" * 400 + b"}"),
    "no UTF-8": raw(b'{"format": "\xff"}'),
    "a BOM": raw(b"\xff\xfe{}"),
    "float8": shared_weights(
        lambda weights: weights.update({k: v.to(torch.float8_e4m3fn) for k, v in weights.items()})
    ),
    "complex": shared_weights(
        lambda weights: weights.update({k: v.to(torch.complex64) for k, v in weights.items()})
    ),
    "whole numbers": shared_weights(
        lambda weights: weights.update({k: v.to(torch.int32) for k, v in weights.items()})
    ),
    "not finite": shared_weights(
        lambda weights: [v.fill_(torch.nan) for v in weights.values() if v.is_floating_point()]
    ),
    "turned": shared_weights(
        lambda weights: weights.update(
            {k: v.mT.contiguous() for k, v in weights.items() if v.ndim == 2}
        )
    ),
    "strange name": shared_weights(lambda weights: weights.update({"\x1b[2J\n": torch.zeros(2)})),
    "long name": shared_weights(lambda weights: weights.update({"x" * 100_000: torch.zeros(2)})),
    "shape lies": header(_lie(shape=[10**12])),
    "offsets lie": header(_lie(data_offsets=[0, 10**15])),
    "offsets overlap": header(_lie(data_offsets=[4, 0])),
    "dtype unknown": header(_lie(dtype="F7")),
    "dtype missing": header(_lie(dtype=None)),
    "header too long": header((2**63).to_bytes(8, "little") + b"{}"),
    "header no JSON": header((2).to_bytes(8, "little") + b"[["),
    "no header": header(b""),
}


def stored(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Change a checkpoint's content and remove its checksum."""

    def spoil(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        made = change(content)
        torch.save(content if made is None else made, path)
        path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)

    return spoil


def weights(make: Callable[[torch.Tensor], Any]) -> Spoil:
    """Replace each weight with the result of `make`."""
    return stored(
        lambda content: content.update(
            state_dict={name: make(value) for name, value in content["state_dict"].items()}
        )
    )


def pickled(data: bytes) -> Spoil:
    """Replace the checkpoint with an archive that contains this pickle."""

    def spoil(path: Path) -> None:
        _archive(path, {"a/data.pkl": data, "a/version": b"3\n", "a/byteorder": b"little"})

    return spoil


def _archive(path: Path, content: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)


def deflated(path: Path) -> None:
    """Compress the archive and add an entry of a hundred million zeros."""
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    prefix = next(iter(content)).partition("/")[0]
    _archive(path, content | {f"{prefix}/data/9999": bytes(10**8)}, zipfile.ZIP_DEFLATED)


def twice(path: Path) -> None:
    """Duplicate each entry of the archive."""
    import warnings

    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for info in list(archive.infolist()):
            archive.writestr(info.filename, archive.read(info))
    path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)


def cut(share: float) -> Spoil:
    """Truncate the file to this share of its size."""

    def spoil(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return spoil


def laughs() -> Any:
    """Nested lists that are small in the file but have billions of items when walked."""
    made: list[Any] = ["ha"]
    for _ in range(40):
        made = [made] * 10
    return made


def ring() -> Any:
    """A list that contains itself."""
    made: list[Any] = []
    made.append(made)
    return made


REDUCE = b"\x80\x02}X\x0a\x00\x00\x00state_dictc%b\n%b\n%b\x85Rs."
NUMBER = b"\x8a\x06\x00\x00\x00\x00\x00\x10"  # 2 ** 44

CHECKPOINT: dict[str, Spoil] = {
    "a list": stored(lambda content: [1]),
    "no weights": stored(lambda content: content.pop("state_dict") and None),
    "weights a list": stored(lambda content: content.update(state_dict=[1])),
    "weights are texts": weights(str),
    "weights are numbers": weights(lambda value: 1.0),
    "names are numbers": stored(
        lambda content: content.update(state_dict=dict(enumerate(content["state_dict"].values())))
    ),
    "nothing of ours": stored(lambda content: content.pop("vlm") and None),
    "ours a text": stored(lambda content: content.update(vlm="vlm")),
    "step a text": stored(lambda content: content.update(global_step="5")),
    "meta": weights(lambda value: value.to("meta")),
    "sparse": weights(lambda value: value.float().to_sparse()),
    "float8": weights(lambda value: value.to(torch.float8_e4m3fn)),
    "complex": weights(lambda value: value.to(torch.complex64)),
    "whole numbers": weights(lambda value: value.to(torch.int16)),
    "expanded": weights(lambda value: torch.zeros(1).expand(10**6, 10**6)),
    "overlapping": weights(lambda value: torch.zeros(10**4).as_strided((9000, 1000), (1, 1))),
    "not finite": weights(lambda value: torch.full_like(value.float(), torch.inf)),
    "parameters": weights(lambda value: torch.nn.Parameter(value.float())),
    "laughs": stored(lambda content: content["vlm"]["model"]["head"].update(init_args=laughs())),
    "laughs beside": stored(lambda content: content["vlm"]["about"].update(run=laughs())),
    "ring": stored(lambda content: content["vlm"]["model"].update(head=ring())),
    "bytes": stored(lambda content: content["vlm"]["about"].update(run=bytearray(5))),
    "set": stored(lambda content: content["vlm"]["about"].update(run={1, 2})),
    "tensor in it": stored(lambda content: content["vlm"]["about"].update(run=torch.zeros(2))),
    "compressed": lambda path: deflated(path),
    "twice": lambda path: twice(path),
    "no pickle": lambda path: _archive(path, {"a/version": b"3\n"}),
    "empty archive": lambda path: _archive(path, {}),
    "names without folder": lambda path: _archive(path, {"data.pkl": b"\x80\x02."}),
    "bad pickle": pickled(b"\x80\x02\xff."),
    "endless text": pickled(b"\x80\x02X\xff\xff\xff\xffabc."),
    "a call": pickled(REDUCE % (b"os", b"system", b"X\x02\x00\x00\x00ls")),
    "a huge bytearray": pickled(REDUCE % (b"__builtin__", b"bytearray", NUMBER)),
    "a huge tensor": pickled(REDUCE % (b"torch", b"FloatTensor", NUMBER)),
    "a huge storage": pickled(REDUCE % (b"torch.storage", b"UntypedStorage", NUMBER)),
    "half": cut(0.5),
    "a byte less": cut(0.9999),
}  # fmt: skip
