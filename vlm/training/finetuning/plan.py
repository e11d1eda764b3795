"""How each part of a model is trained: what in it, from when, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from torch import nn

from vlm.core.compat import batch_norm
from vlm.core.lora import LoRA, add_lora
from vlm.core.part import Part
from vlm.fusion.base import Fusion
from vlm.fusion.film import TokenBatchNorm
from vlm.image.base import ImageEncoder
from vlm.image.side_by_side import SideBySide
from vlm.model import PARTS, VQAModel


@dataclass(frozen=True)
class PartTuning:
    """How one part is trained.

    The part defines its layers (`Part.layer_names`), from its input to its output; epochs are
    counted from 0.

    Args:
        frozen: whether to train nothing in the part. Weights that are never pretrained are trained
            even so: an image encoder's `positions`, the parameters of a `SideBySide` outside its
            encoders, a fusion's `image_numbers`, the projection of a `HuggingFaceDecoder` and the
            gated layers of a `GatedLanguageModel`. A frozen part stays in evaluation mode during
            training, without dropout and with fixed batch normalisation statistics.
        from_epoch: first epoch in which the part is trained; it is frozen before.
        layers_per_epoch: number of layers to unfreeze per epoch, from the last layer down, starting
            in `from_epoch`. None unfreezes all at once.
        lr_scale: learning rate of the part as a multiple of the optimiser's; None for the part's
            own, which is `lr_factor` for fusions and 1 for all other parts.
        layer_decay: ratio of each layer's learning rate to that of the layer above, in (0, 1].
        keep_statistics: whether to keep batch normalisation statistics fixed while the part is
            trained. Otherwise, statistics of a few images of one kind replace those of many
            (docs/forgetting.md).
        lora: settings for training low-rank corrections instead of the layers; None for no LoRA.

    Raises:
        ValueError: a number out of range, or `frozen` with another setting.

    Example:
        >>> tuning = vlm.training.PartTuning(from_epoch=2, lr_scale=0.1)
        >>> vlm.training.Tuning(image_encoder=tuning).image_encoder.lr_scale
        0.1
    """

    frozen: bool = False
    from_epoch: int = 0
    layers_per_epoch: int | None = None
    lr_scale: float | None = None
    layer_decay: float = 1.0
    keep_statistics: bool = False
    lora: LoRA | None = None

    def __post_init__(self) -> None:
        set_ones = [f.name for f in fields(self)[1:] if getattr(self, f.name) != f.default]
        if self.frozen and set_ones:
            raise ValueError(
                f"frozen: got true, with {', '.join(set_ones)} of the same part, which would have "
                "no effect; expected one of them."
            )
        if self.from_epoch < 0:
            raise ValueError(f"from_epoch: got {self.from_epoch}; expected 0 or more.")
        if self.layers_per_epoch is not None and self.layers_per_epoch < 1:
            raise ValueError(
                f"layers_per_epoch: got {self.layers_per_epoch}; expected a positive integer or "
                f"null."
            )
        if self.lr_scale is not None and not 0 < self.lr_scale < float("inf"):
            raise ValueError(
                f"lr_scale: got {self.lr_scale}; expected a positive number. `frozen` "
                f"trains nothing."
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"layer_decay: got {self.layer_decay}; expected a share above 0 and at most 1."
            )


@dataclass(frozen=True)
class Tuning:
    """How to train the parts, and which of them start from another model's weights.

    Args:
        image_encoder, text_encoder, fusion, head: settings for each part.
        encoders: settings for each encoder in a `vlm.image.SideBySide`, instead of `image_encoder`;
            the parameters outside the encoders are trained from the start. None to use
            `image_encoder` for all.
        init_from: checkpoint, run folder or shared model (also "scenes", "easy_vqa" or hf:NAME)
            from whose weights the parts start. Nothing else is taken from it; to continue a run,
            use `--ckpt_path`.
        init_parts: parts that start from `init_from`; None for all.

    Raises:
        ValueError: an unknown name in `init_parts`, or `init_parts` without `init_from`; both
            `encoders` and `image_encoder`; LoRA for one of the `encoders`.

    Example:
        >>> frozen = vlm.training.PartTuning(frozen=True)
        >>> vlm.training.Tuning(image_encoder=frozen).text_encoder.frozen
        False
    """

    image_encoder: PartTuning = field(default_factory=PartTuning)
    text_encoder: PartTuning = field(default_factory=PartTuning)
    fusion: PartTuning = field(default_factory=PartTuning)
    head: PartTuning = field(default_factory=PartTuning)
    encoders: Sequence[PartTuning] | None = None
    init_from: str | None = None
    init_parts: Sequence[str] | None = None

    def __post_init__(self) -> None:
        wrong = [name for name in self.init_parts or () if name not in PARTS]
        if wrong or (self.init_parts is not None and not self.init_parts):
            raise ValueError(f"init_parts: got {wrong}; expected some of {', '.join(PARTS)}.")
        if self.init_parts and not self.init_from:
            raise ValueError("init_parts: got parts without init_from; expected both.")
        if self.encoders is not None and self.image_encoder != PartTuning():
            raise ValueError(
                "encoders: got tuning of each encoder beside image_encoder, which is that of all; "
                "expected one of them."
            )
        if any(how.lora is not None for how in self.encoders or ()):
            raise ValueError(
                "encoders: got lora for one of them; expected LoRA of all or of none. Set "
                "image_encoder.lora, whose `layers` may name some."
            )

    def of(self, part: str) -> PartTuning:
        """The settings of a part by its name."""
        tuning: PartTuning = getattr(self, part)
        return tuning


class Layer(NamedTuple):
    """The trained parameters of one layer of a part.

    Attributes:
        part: name of the part.
        names: of the parameters in the model.
        start: first epoch in which they are trained.
        lr_scale: their learning rate as a multiple of the optimiser's.
    """

    part: str
    names: list[str]
    start: int
    lr_scale: float


class _Unit(NamedTuple):
    """What one `PartTuning` is about.

    Attributes:
        part: name of the part.
        setting: its name in `Tuning`.
        how: the tuning.
        module: a part of the model, or an encoder inside one.
        layers: names of the parameters of each layer, in the model.
    """

    part: str
    setting: str
    how: PartTuning
    module: Part
    layers: list[list[str]]


def _units(model: VQAModel, tuning: Tuning) -> list[_Unit]:
    """All that is tuned, part by part, from the input to the output.

    Raises:
        ValueError: tuning of each encoder, and the image encoder has not as many.
    """
    units = []
    for part in PARTS:
        module, how = getattr(model, part), tuning.of(part)
        own = _named(module, f"{part}.")
        if part == "image_encoder" and tuning.encoders is not None:
            inner = module.encoders() if isinstance(module, SideBySide) else {}
            if len(inner) != len(tuning.encoders):
                raise ValueError(
                    f"model.tuning.encoders: got {len(tuning.encoders)} for "
                    f"{type(module).__name__}, which has {len(inner)} encoders inside; expected "
                    f"one for each encoder of a SideBySide."
                )
            for number, (name, each) in enumerate(inner.items()):
                prefix, setting = f"{part}.{name}.", f"encoders.{number}"
                how_each, layers = tuning.encoders[number], _named(each, prefix)
                units.append(_Unit(part, setting, how_each, each, layers))
                own = [[n for n in names if not n.startswith(prefix)] for names in own]
            own = [[name for names in own for name in names]]
        units.append(_Unit(part, part, how, module, own))
    return units


def _named(module: Part, prefix: str) -> list[list[str]]:
    return [[prefix + name for name in names] for names in module.layer_names()]


def prepare(model: VQAModel, tuning: Tuning) -> None:
    """Add LoRA and freeze what is never trained, in place.

    Raises:
        ValueError: LoRA in a part without layers for it, no statistics to keep, or tuning of each
            encoder, and the image encoder has not as many.
        ImportError: LoRA without peft.
    """
    for unit in _units(model, tuning):
        prepare_part(unit.module, unit.how, f"model.tuning.{unit.setting}")


def prepare_part(part: Part, how: PartTuning, setting: str) -> None:
    """`prepare` for one part; `setting` is the name of its tuning in error messages."""
    if how.lora is not None:
        try:
            add_lora(part, how.lora)
        except ValueError as error:
            raise ValueError(f"{setting}.{error}") from None
    if how.keep_statistics and not _normalisations(part):
        raise ValueError(
            f"{setting}.keep_statistics: got true, but {type(part).__name__} has no batch "
            "normalisation; leave it out."
        )
    if how.frozen:
        part.requires_grad_(False)
        part.train_new()


def plan(model: VQAModel, tuning: Tuning) -> list[Layer]:
    """The layers that are trained, part by part, from the input to the output.

    A parameter that needs no gradient is none of them, so `prepare` comes first.

    Raises:
        ValueError: an order of layers is asked for, and the part has none.
    """
    layers = []
    for unit in _units(model, tuning):
        how, found = unit.how, unit.layers
        scale = how.lr_scale if how.lr_scale is not None else getattr(unit.module, "lr_factor", 1.0)
        if len(found) < 2 and (how.layer_decay != 1 or how.layers_per_epoch is not None):
            raise ValueError(
                f"model.tuning.{unit.setting}: got layer_decay or layers_per_epoch, but "
                f"{type(unit.module).__name__} has no stack of layers; leave both out."
            )
        for below, names in zip(reversed(range(len(found))), found, strict=True):
            trained = [name for name in names if model.get_parameter(name).requires_grad]
            later = 0 if how.layers_per_epoch is None else below // how.layers_per_epoch
            if trained:
                lr_scale = scale * how.layer_decay**below
                layers.append(Layer(unit.part, trained, how.from_epoch + later, lr_scale))
    return layers


def check_plan(layers: list[Layer], tuning: Tuning, max_epochs: int | None) -> None:
    """Refuse a plan by which nothing, or less than was asked for, would be trained.

    Raises:
        ValueError: nothing is trained at all or in the first epoch, or a part never.
    """
    if not layers or all(tuning.of(part).frozen for part in PARTS):
        raise ValueError("model.tuning: every part is frozen, so there is nothing to train.")
    if (first := min(layer.start for layer in layers)) > 0:
        raise ValueError(
            f"model.tuning: nothing would be trained before epoch {first}; expected a part with "
            f"from_epoch=0."
        )
    if max_epochs is None or max_epochs < 0:
        return
    settings = {part: tuning.of(part) for part in PARTS}
    settings |= {f"encoders.{number}": how for number, how in enumerate(tuning.encoders or ())}
    for setting, how in settings.items():
        if (epoch := how.from_epoch) >= max_epochs:
            raise ValueError(
                f"model.tuning.{setting}.from_epoch: got {epoch} with "
                f"trainer.max_epochs={max_epochs}, so it would never be trained; expected less, "
                f"or frozen=true."
            )


def set_modes(module: nn.Module, trained: set[nn.Parameter]) -> None:
    """Put into evaluation mode, of modules in training mode, those of which nothing is trained.

    A module is judged by its parameters and those inside it; one that has none, such as dropout,
    is as what it lies in.
    """
    parameters = set(module.parameters())
    # What a frozen part trains acts alike in both modes, and must not keep its dropout on.
    if isinstance(module, ImageEncoder) and module.positions is not None:
        parameters -= set(module.positions.parameters())
    if isinstance(module, Fusion) and module.image_numbers is not None:
        parameters.discard(module.image_numbers)
    if parameters and not parameters & trained:
        module.eval()
        return
    for child in module.children():
        set_modes(child, trained)


def keep_statistics(model: VQAModel, tuning: Tuning) -> None:
    """Put the batch normalisations whose statistics stay into evaluation mode; their gains and
    biases are trained all the same."""
    for unit in _units(model, tuning):
        if unit.how.keep_statistics:
            for module in _normalisations(unit.module):
                module.eval()


def _normalisations(part: nn.Module) -> list[nn.Module]:
    kinds = (batch_norm(), TokenBatchNorm)
    return [module for module in part.modules() if isinstance(module, kinds)]
