"""The promises that every part makes, whatever its role; the checks are made of these."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vlm.core.compat import tree_flatten, tree_map, tree_map_only, tree_unflatten
from vlm.core.features import Features, as_features
from vlm.core.part import Part, build

TOLERANCE = 1e-5
"""Largest error of equal results, absolute below 1 and relative to the largest entry above."""

BF16_TOLERANCE = 0.1
"""Largest relative error (Euclidean norm) of a whole result under bf16 autocast."""

P = TypeVar("P", bound=nn.Module)
Inputs = tuple[Any, ...]
Output = Tensor | Features


@contextmanager
def own_randomness() -> Iterator[None]:
    """Fixed random numbers inside, untouched ones outside; gradients are on."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(0)
        yield


@contextmanager
def promise(part: nn.Module, text: str, given: str = "") -> Iterator[None]:
    """Turn whatever goes wrong inside into an AssertionError about this promise."""
    try:
        yield
    except Exception as error:
        case = f" (given {given})" if given else ""
        reason = str(error) if type(error) is AssertionError else f"{type(error).__name__}: {error}"
        message = f"{type(part).__name__} breaks a promise: {text}{case}. {reason}"
        raise AssertionError(message) from error


def require(condition: bool, message: str) -> None:
    """As `assert`, and also under `python -O`."""
    if not condition:
        raise AssertionError(message)


def prepared(part: P) -> P:
    """A copy in evaluation mode, CPU, float32, in which nothing hides behind a closed gate."""
    with promise(part, "copy.deepcopy works"):
        part = copy.deepcopy(part).cpu().float().eval()
    for parameter in part.parameters():
        if not parameter.any():
            nn.init.normal_(parameter.data, std=0.1)
    return part


def named(output: Output) -> dict[str, Tensor]:
    """The tensors of a result that must agree: real tokens only, in the order of the rows."""
    if isinstance(output, Tensor):
        return {"output": output}
    tokens, count = output.tokens[output.mask], output.mask.sum(1)
    return {"pooled": output.pooled, "number of real tokens": count, "real tokens": tokens}


def require_same(got: Output, expected: Output, tolerance: float = TOLERANCE) -> None:
    """Raise unless two results agree and are finite."""
    for (name, a), b in zip(named(got).items(), named(expected).values(), strict=True):
        require(a.shape == b.shape, f"{name}: shape {tuple(a.shape)}, not {tuple(b.shape)}.")
        require_finite(a, name)
        require_finite(b, name)
        a, b = a.double(), b.double()
        if a.numel():
            error = ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()
            require(error <= tolerance, f"{name}: differs by {error:.2g}, at most {tolerance:g}.")


def require_finite(value: Tensor, name: str) -> None:
    bad = (~value.isfinite()).sum().item()
    require(not bad, f"{name}: {bad} of {value.numel()} values are NaN or infinite.")


def require_near(got: Tensor, expected: Tensor, name: str) -> None:
    """Raise unless what bf16 gave is finite and within `BF16_TOLERANCE`."""
    require_finite(got, name)
    error = ((got - expected).float().norm() / expected.float().norm()).item()
    require(error <= BF16_TOLERANCE, f"{name}: off by {error:.1%}, at most 10%.")


def take(value: Any, rows: list[int]) -> Any:
    """The same with these rows of the batch in each tensor."""
    return tree_map_only(Tensor, lambda tensor: tensor[rows], value)


def check_features(part: nn.Module, features: Features, rows: int, dim: int) -> None:
    """The result is a `Features` of the promised widths, finite also in its padding."""
    with promise(part, "the result is a Features with tokens, bool mask and pooled of one width"):
        require(isinstance(features, Features), f"Got {type(features).__name__}.")
        as_features(features, "result")
        expected = (rows, dim)
        require(
            features.pooled.shape == expected,
            f"pooled: shape {tuple(features.pooled.shape)}, not {expected}.",
        )
        require_finite(features.pooled, "pooled")
        require_finite(features.tokens, "tokens")


def check_batch(part: nn.Module, inputs: Inputs, rows: int) -> None:
    whole = part(*inputs)
    order = [*range(1, rows, 2), *range(0, rows, 2)]
    with promise(part, "the order of the batch changes nothing", f"rows in the order {order}"):
        require_same(part(*take(inputs, order)), take(whole, order))
    for row in range(rows):
        with promise(part, "a row alone gives what it gives in a batch", f"row {row} of {rows}"):
            require_same(part(*take(inputs, [row])), take(whole, [row]))


def check_gradients(part: nn.Module, inputs: Inputs, source: str) -> None:
    """Every trainable parameter gets a gradient from this one tensor of the result."""
    if not any(parameter.requires_grad for parameter in part.parameters()):
        return  # a frozen encoder
    with promise(part, f"every trainable parameter gets a gradient from `{source}` alone"):
        part.zero_grad()
        output = named(part(*inputs))[source]
        (output * torch.randn_like(output)).sum().backward()
        require_gradients(part)
        require_finite_gradients(part, inputs)


def require_gradients(part: nn.Module) -> None:
    """Raise unless every trainable parameter has a gradient."""
    trainable = {n: p.grad for n, p in part.named_parameters() if p.requires_grad}
    # A softmax cancels what all its scores share, so the bias of a score may get zeros.
    missing = [
        name
        for name, gradient in trainable.items()
        if gradient is None or not (gradient.any() or name.endswith("bias"))
    ]
    require(not missing, f"None or zero for {', '.join(missing)}.")


def check_finite_gradients(part: nn.Module, inputs: Inputs, given: str) -> None:
    """No NaN or infinity in the gradients of parameters and inputs."""
    with promise(part, "gradients are finite", given):
        part.zero_grad()
        leaves = tree_map_only(Tensor, lambda tensor: tensor.detach(), inputs)
        for leaf in tree_flatten(leaves)[0]:
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                leaf.requires_grad_()
        output = part(*leaves)
        parts = [output] if isinstance(output, Tensor) else [output.pooled, output.tokens]
        parts = [tensor for tensor in parts if tensor.requires_grad]  # none if frozen
        if parts:
            torch.autograd.backward(parts, [torch.randn_like(tensor) for tensor in parts])
        require_finite_gradients(part, leaves)


def require_finite_gradients(part: nn.Module, inputs: Inputs) -> None:
    for name, parameter in part.named_parameters():
        if parameter.grad is not None:
            require_finite(parameter.grad, f"gradient of {name}")
    for leaf in tree_flatten(inputs)[0]:
        if isinstance(leaf, Tensor) and leaf.grad is not None:
            require_finite(leaf.grad, f"gradient of the input of shape {tuple(leaf.shape)}")


def check_copies(part: Part, inputs: Inputs) -> None:
    """Pickling, and building from plain data plus weights, as checkpoints do."""
    expected = part(*inputs)
    with promise(part, "pickle.loads(pickle.dumps(part)) gives the same"):
        require_same(pickle.loads(pickle.dumps(part))(*inputs), expected)
    with promise(part, "build(part.config) plus the state_dict gives the same"):
        config = json.loads(json.dumps(part.config))
        made = build(config, trust=True)
        require(type(made) is type(part), f"It is a {type(made).__name__}.")
        made.load_state_dict(part.state_dict())
        require_same(made.eval()(*inputs), expected)


def check_ways_to_run(part: Part, inputs: Inputs, rows: int) -> None:
    """In any batch, from a copy or a checkpoint, under autocast and compiled: the same."""
    check_batch(part, inputs, rows)
    check_copies(part, inputs)
    check_bf16(part, inputs)
    check_compiled(part, inputs)


def check_bf16(part: nn.Module, inputs: Inputs) -> None:
    with promise(part, "bf16 autocast gives finite values close to float32"):
        expected = named(part(*inputs))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = part(*inputs)
        for name, got in named(output).items():
            require_near(got, expected[name], name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_finite_gradients(part, inputs, "bf16 autocast")


def check_functional(part: nn.Module, inputs: Inputs) -> None:
    """torch.func: the gradients of single rows, under vmap, add up to those of all."""
    work = promise(part, "torch.func.functional_call, grad and vmap work")
    with work, warnings.catch_warnings():
        # torch warns about its own pieces that are slow under vmap.
        warnings.simplefilter("ignore")
        part = copy.deepcopy(part)  # torch 2.14 puts a shared module's parameters back wrongly
        start = {name: p.detach() for name, p in part.named_parameters()}
        leaves, structure = tree_flatten(inputs)
        held = [isinstance(leaf, Tensor) for leaf in leaves]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]

        def value(parameters: dict[str, Tensor], given: list[Tensor]) -> Tensor:
            rest = iter(given)
            whole = [next(rest) if h else leaf for h, leaf in zip(held, leaves, strict=True)]
            called = torch.func.functional_call(part, parameters, tree_unflatten(whole, structure))
            output: Tensor = called if isinstance(called, Tensor) else called.pooled
            return output.square().sum()

        gradient = torch.func.grad(value)
        expected = gradient(start, tensors)
        largest = max(g.norm().item() for g in expected.values())
        rows = torch.func.vmap(gradient, in_dims=(None, 0))(start, [t[:, None] for t in tensors])
        for name, each in rows.items():
            error = (each.sum(0) - expected[name]).norm().item() / largest
            require(error <= 1e-3, f"The gradient of {name} is off by {error:.1%} of the largest.")


def check_large(part: nn.Module, inputs: Inputs) -> None:
    """Finite values and gradients for features of 30,000 in bf16, whose range is float32's."""
    with promise(part, "bf16 gives finite values for large features", "30,000 times the features"):
        half = copy.deepcopy(part).bfloat16()
        large = tree_map_only(
            Tensor, lambda t: (3e4 * t).bfloat16() if t.is_floating_point() else t, inputs
        )
        large = tree_map_only(
            Features, lambda f: f if f.boxes is None else f._replace(boxes=f.boxes / 3e4), large
        )
        for name, got in named(half(*large)).items():
            require_finite(got, name)
    check_finite_gradients(half, large, "30,000 times the features, in bf16")


def check_compiled(part: nn.Module, inputs: Inputs) -> None:
    """torch.compile without graph breaks, and torch.export with the batch left open."""
    expected = part(*inputs)
    with promise(part, 'torch.compile(backend="aot_eager", fullgraph=True) gives the same'):
        torch.compiler.reset()
        require_same(torch.compile(part, backend="aot_eager", fullgraph=True)(*inputs), expected)
        torch.compiler.reset()
    with promise(part, "torch.export gives the same"), warnings.catch_warnings():
        # torch warns about its own pieces while it exports.
        warnings.simplefilter("ignore")
        batch = {0: torch.export.Dim.AUTO}
        dynamic = tree_map(lambda leaf: batch if isinstance(leaf, Tensor) else None, inputs)
        program = torch.export.export(part, inputs, dynamic_shapes=dynamic)
        require_same(program.module()(*inputs), expected)
        fewer = take(inputs, [0, 1, 2])
        require_same(program.module()(*fewer), part(*fewer))


def check_double(part: nn.Module, inputs: Inputs) -> None:
    """Derivatives in float64: by the inputs that require a gradient, and of all parameters.

    The parameters move together along one random direction, which is much faster than each alone.
    """
    with promise(part, "torch.autograd.gradcheck passes in double precision"):
        part = copy.deepcopy(part).double()
        leaves, structure = tree_flatten(inputs)
        variable = [isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves]
        leaves = [
            x.detach().double() if isinstance(x, Tensor) and x.is_floating_point() else x
            for x in leaves
        ]
        # Read once: torch 2.14 puts a shared module's parameters back wrongly after each call.
        start = {name: p.detach() for name, p in part.named_parameters()}
        directions = {name: torch.randn_like(p) for name, p in start.items()}

        def function(step: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
            moved = {name: p + step * directions[name] for name, p in start.items()}
            rest = iter(values)
            given = [next(rest) if v else x for x, v in zip(leaves, variable, strict=True)]
            output = torch.func.functional_call(part, moved, tree_unflatten(given, structure))
            return tuple(tensor for tensor in named(output).values() if tensor.requires_grad)

        points = [torch.zeros((), dtype=torch.float64)]
        points += [x for x, v in zip(leaves, variable, strict=True) if v]
        for point in points:
            point.requires_grad_()
        torch.autograd.gradcheck(function, points, fast_mode=True)


def check_refuses(part: nn.Module, given: str, call: Callable[[], Any]) -> None:
    with promise(part, "wrong input raises ValueError", given):
        try:
            call()
        except ValueError:
            return
        require(False, "It was accepted.")
