"""The two towers of open_clip's models: each is built alone, and pretrained ones share one load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from reprlib import repr
from typing import Any, Literal, NamedTuple

from torch import nn

from vlm.core.safe_config import ENCODERS, model_of, options, read_options
from vlm.core.validation import did_you_mean, nearest
from vlm.pretrained.availability import check_hub, hub_access
from vlm.pretrained.weights import PACKAGE, SUFFIXES, find_file, misfit

HUB, FOLDER = "hf-hub:", "local-dir:"
"""What open_clip's own names of a repository of the hub and of a local folder begin with."""

# As little of the other tower as open_clip will build.
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}
_NO_VISION = {"image_size": 1, "patch_size": 1, "width": 1, "head_width": 1, "layers": 1}


class Loaded(NamedTuple):
    """A pretrained model whose towers wait for their encoders; each is given away once."""

    name: str
    pretrained: bool | str
    image_size: int | None
    towers: dict[str, nn.Module]


_waiting: list[Loaded] = []
BOTH = (
    "config, pretrained: got both, and a configuration has no weights; give the model's name with "
    "pretrained, or leave pretrained out."
)
"""What both encoders say of these arguments together."""


def read_config(name: str, pretrained: bool | str) -> dict[str, Any]:
    """The configuration of a model as plain data, its `preprocess_cfg` included.

    Raises:
        ValueError: an unknown name or tag.
        OSError: neither in the cache nor available.
    """
    if name.startswith(HUB):
        check_hub(name.removeprefix(HUB))  # before the import, which takes seconds
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    name = full_name(name)
    if name.startswith((HUB, FOLDER)):
        with hub_access(name.removeprefix(FOLDER).removeprefix(HUB)), open_clip_errors(name):
            config = open_clip.get_model_config(name)
            preprocess = _stored_preprocess(name)
    else:
        config = open_clip.get_model_config(name)
        if config is None:
            hint = did_you_mean(nearest(name, open_clip.list_models()))
            raise ValueError(
                f"name: got {name!r}, which is not an open_clip model.{hint} A repository of the "
                f"hub is named {HUB}OWNER/NAME."
            )
        tags = list_pretrained_tags_by_model(name)
        if pretrained and pretrained not in tags and not _is_file(pretrained):
            near = None if pretrained is True else nearest(pretrained, tags, at_least=0.4)
            raise ValueError(
                f"pretrained: got {pretrained!r} for {name}; expected a file, or one of the tags "
                f"{', '.join(tags) or '(there is none)'}.{did_you_mean(near)}"
            )
        tag = pretrained if pretrained in tags else next(iter(tags), None)
        preprocess = get_pretrained_cfg(name, tag) if tag else {}
    config["preprocess_cfg"] = merge_preprocess_dict(PreprocessCfg(), preprocess)
    return config


def check_stored(config: Any) -> None:
    """Check a tower's stored configuration: options of open_clip or of transformers.

    Raises:
        ValueError: a name or an option that may load more than the file holds.
    """
    if isinstance(config, dict) and "model_type" in config:
        model_of(ENCODERS)(config)
    elif isinstance(config, dict):
        options(config)
    else:
        raise ValueError(f"got {repr(config)}; expected the whole configuration.")


def load_tower(
    kind: Literal["image", "text"],
    name: str,
    pretrained: bool | str,
    config: dict[str, Any],
    image_size: int | None = None,
) -> nn.Module:
    """A tower, with weights if `pretrained`; the other then waits until the next load."""
    if not pretrained:
        return build_tower(kind, config, image_size)
    for loaded in _waiting:
        size_fits = kind == "text" or loaded.image_size == image_size
        same = (loaded.name, loaded.pretrained) == (name, pretrained) and size_fits
        if same and kind in loaded.towers:
            return loaded.towers.pop(kind)
    _waiting.clear()
    model = _load(full_name(name), pretrained, image_size)
    towers = {"image": model.visual, "text": model.text}
    tower = towers.pop(kind)
    _waiting.append(Loaded(name, pretrained, image_size, towers))
    return tower


def build_tower(
    kind: Literal["image", "text"], config: dict[str, Any], image_size: int | None = None
) -> nn.Module:
    """A tower with random weights, from its plain configuration alone."""
    from open_clip import CustomTextCLIP

    vision = dict(config["vision_cfg"], timm_model_pretrained=False) if kind == "image" else {}
    if image_size is not None and kind == "image":
        vision["image_size"] = image_size
    model = CustomTextCLIP(
        config["embed_dim"],
        vision or _NO_VISION,
        read_options(config["text_cfg"]) if kind == "text" else _NO_TEXT,
        quick_gelu=config.get("quick_gelu", False),
    )
    if kind == "text":
        return model.text
    if image_size is not None and hasattr(model.visual, "set_input_size"):
        model.visual.set_input_size(image_size)
    return model.visual


def full_name(name: str) -> str:
    """Folders may be named as they are."""
    return FOLDER + name if Path(name).is_dir() else name


def _is_file(pretrained: bool | str) -> bool:
    if isinstance(pretrained, bool):
        return False
    return pretrained.startswith(PACKAGE) or Path(pretrained).exists()


def _stored_preprocess(name: str) -> dict[str, Any]:
    import json

    from open_clip.factory import download_pretrained_from_hf

    file = "open_clip_config.json"
    path = (
        Path(name.removeprefix(FOLDER)) / file
        if name.startswith(FOLDER)
        else download_pretrained_from_hf(name.removeprefix(HUB), filename=file)
    )
    stored: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return stored.get("preprocess_cfg", {})


def _load(name: str, pretrained: bool | str, image_size: int | None) -> Any:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    named = name.startswith((HUB, FOLDER))
    source: Any = None if named else pretrained
    if not named and _is_file(pretrained):
        source = str(find_file(str(pretrained), SUFFIXES, "weights"))
    elif not named and (stored := get_pretrained_cfg(name, source).get("hf_hub")):
        # Before the model is built, which takes seconds. OWNER/NAME/ and perhaps a file.
        check_hub(stored.rpartition("/")[0], from_scratch=True)
    place = name.removeprefix(FOLDER).removeprefix(HUB)
    with (
        hub_access(place, from_scratch=not named),
        open_clip_errors(name if named else str(pretrained)),
    ):
        return open_clip.create_model(
            name,
            pretrained=source,
            force_custom_text=True,
            force_image_size=image_size,
            require_pretrained=True,
        )


@contextmanager
def open_clip_errors(source: str) -> Iterator[None]:
    """open_clip raises RuntimeError for all: tell weights that do not fit from none."""
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        if "Error(s) in loading state_dict" in lines[0]:
            raise ValueError(misfit(source, lines[1:])) from error
        raise OSError(str(error)) from error
