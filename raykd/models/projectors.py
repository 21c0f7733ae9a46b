"""Regressors that bring a student's feature to the shape of a teacher's (Romero et al. 2015, Eq. 3).

Three layouts, by the number of dimensions of one sample's feature: vector [D], tokens [L, D], map
[C, H, W]. The student's feature is first brought to the teacher's layout and size without parameters,
then a linear map over features (1×1 convolution for maps) changes their number.

| student | teacher | how |
|---|---|---|
| vector | vector | linear |
| map | map | mean over cells where it shrinks, bilinear where a side grows; 1×1 convolution |
| map | vector | mean over positions; linear |
| map | tokens | resized to the teacher's grid; class token = mean over positions; linear |
| tokens | map | class token dropped; grid resized; 1×1 convolution |
| tokens | tokens | grid to grid as maps, class token kept, dropped or made as the mean; without grids linear interpolation along L; linear |
| tokens | vector | class token, or mean over tokens where there is none; linear |
| vector | map, tokens | refused: a vector has no positions |

Tokens are a grid where L = h² (or h·w of the map on the other side), a class token in front of it where
L = h² + 1 (or h·w + 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raykd.errors import InputError

Shape = tuple[int, ...]


class Grid(NamedTuple):
    """How tokens lie in the image: row by row, after a class token where there is one."""

    height: int
    width: int
    class_token: bool


def make_projector(
    student_shape: Shape,
    teacher_shape: Shape,
    *,
    always: bool = False,
    orthogonal: bool = False,
    mlp: bool = False,
    key: str = "objective.features",
) -> nn.Module:
    """A module from the student's feature to the teacher's shape; see the table above.

    Args:
        student_shape: of one sample's feature, without the batch.
        teacher_shape: likewise.
        always: a trainable linear map also where the number of features agrees, as FitNets have it;
            otherwise such a projector has no parameters, and equal shapes give `nn.Identity`.
        orthogonal: the linear map keeps lengths and angles (`Orthogonal`), so that it cannot learn away what the
            student lacks; it is trained in any case.
        mlp: two layers in place of the linear map, the hidden one twice as wide as the wider side.
        key: dotted key of the term, for errors.

    Returns:
        A module from [B, *student_shape] to [B, *teacher_shape], initialised from torch's global
        generator.

    Raises:
        InputError: there is no sensible way from one shape to the other; names both.
    """
    steps = _layout_steps(student_shape, teacher_shape, key)
    is_map = len(teacher_shape) == 3
    source = student_shape[0] if len(student_shape) == 3 else student_shape[-1]
    target = teacher_shape[0] if is_map else teacher_shape[-1]
    if orthogonal:
        steps.append(Orthogonal(source, target, is_map=is_map))
    elif mlp:
        steps += _two_layers(source, target, is_map=is_map)
    elif always or source != target:
        steps.append(PointwiseMap(source, target) if is_map else PointwiseFeatures(source, target))
    return nn.Sequential(*steps) if steps else nn.Identity()


def _two_layers(source: int, target: int, *, is_map: bool) -> list[nn.Module]:
    layer: Callable[[int, int], nn.Module] = PointwiseMap if is_map else PointwiseFeatures
    hidden = 2 * max(source, target)
    return [layer(source, hidden), nn.GELU(), layer(hidden, target)]


def _layout_steps(student: Shape, teacher: Shape, key: str) -> list[nn.Module]:
    """Parameter-free modules from the student's layout and size to the teacher's."""
    layouts = (len(student), len(teacher))
    if not {*layouts} <= {1, 2, 3} or min((*student, *teacher)) < 1:
        raise _impossible(student, teacher, "a feature is [D], [L, D] or [C, H, W]", key)
    if student == teacher or layouts == (1, 1):
        return []
    if layouts == (3, 3):
        return _resize(student[1:], teacher[1:])
    if layouts == (3, 1):
        return [Step(mean_of_map)]
    if layouts == (2, 1):
        grid = _grid(student[0])
        return [Step(summary, class_token=grid is not None and grid.class_token)]
    if layouts == (2, 2):
        return _token_steps(student[0], teacher[0])
    return _grid_steps(student, teacher, key)


def _resize(found: Shape, needed: Shape) -> list[nn.Module]:
    return [] if found == needed else [Step(resized, height=needed[0], width=needed[1])]


def _token_steps(source: int, target: int) -> list[nn.Module]:
    if source == target:
        return []
    source_grid, target_grid = _grid(source), _grid(target)
    if source_grid is None or target_grid is None:
        return [Step(resized_length, length=target)]
    return [Step(regrid, source=source_grid, target=target_grid)]


def _grid_steps(student: Shape, teacher: Shape, key: str) -> list[nn.Module]:
    """Between a map and tokens."""
    if len(student) == 1:
        raise _impossible(student, teacher, "a vector has no positions; tap an earlier module", key)
    if len(student) == 3:
        grid = _grid(teacher[0], beside=student[1:])
    else:
        grid = _grid(student[0], beside=teacher[1:])
    if grid is None:
        why = "the tokens are no grid (neither h², h² + 1, nor as many as the map has cells)"
        raise _impossible(student, teacher, why, key)
    if len(student) == 3:
        return [*_resize(student[1:], grid[:2]), Step(map_to_tokens, class_token=grid.class_token)]
    return [Step(tokens_to_map, grid=grid), *_resize(grid[:2], teacher[1:])]


def _grid(length: int, beside: Shape = ()) -> Grid | None:
    """The grid of `length` tokens, preferring that of the map on the other side; None if it is none."""
    if beside and length - math.prod(beside) in (0, 1):
        return Grid(beside[0], beside[1], length > math.prod(beside))
    for cells, class_token in ((length, False), (length - 1, True)):
        side = math.isqrt(cells)
        if cells > 0 and side * side == cells:
            return Grid(side, side, class_token)
    return None


def _impossible(student: Shape, teacher: Shape, why: str, key: str) -> InputError:
    return InputError.at(
        key,
        f"no projector from the student's {list(student)} to the teacher's {list(teacher)}: {why}",
    )


class PointwiseMap(nn.Module):
    """1×1 convolution: [B, C, H, W] -> [B, C', H, W]; input cast to the dtype of its weights."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(source, target, 1)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]."""
        out: Tensor = self.conv(map_BCHW.to(self.conv.weight.dtype))
        return out


class PointwiseFeatures(nn.Module):
    """Linear map of the last dimension: [B, ..., D] -> [B, ..., D']; input cast as above."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.linear = nn.Linear(source, target)

    def forward(self, features: Tensor) -> Tensor:
        """[B, ..., D] -> [B, ..., D']."""
        out: Tensor = self.linear(features.to(self.linear.weight.dtype))
        return out


class Orthogonal(nn.Module):
    """A linear map P without bias and with PᵀP = I, or PPᵀ = I where features become fewer (Miles et al. 2024, VkD).

    P is the orthogonal factor of what is trained, QR with a positive diagonal of R: it depends on no scale of the
    weights, so that weight decay does nothing to it.
    """

    def __init__(self, source: int, target: int, *, is_map: bool) -> None:
        super().__init__()
        self.is_map, self.shrinks = is_map, target < source
        self.raw = nn.Parameter(torch.randn(max(source, target), min(source, target)))

    @property
    def weight(self) -> Tensor:
        """P, [target, source]."""
        q, r = torch.linalg.qr(self.raw)
        q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
        weight: Tensor = q.T if self.shrinks else q
        return weight

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W], or [B, ..., D] -> [B, ..., D']."""
        features, weight = features.to(self.raw.dtype), self.weight
        if self.is_map:
            return F.linear(features.movedim(1, -1), weight).movedim(-1, 1)
        return F.linear(features, weight)


class Step(nn.Module):
    """A function of a feature that has no parameters."""

    def __init__(self, function: Callable[..., Tensor], **settings: Any) -> None:
        super().__init__()
        self.function, self.settings = function, settings

    def forward(self, feature: Tensor) -> Tensor:
        """What the function makes of it."""
        return self.function(feature, **self.settings)


def resized(map_BCHW: Tensor, height: int, width: int) -> Tensor:
    """[B, C, H, W] -> [B, C, height, width]: mean over cells, or bilinear where a side grows."""
    size = (map_BCHW.shape[2], map_BCHW.shape[3])
    if size == (height, width):
        return map_BCHW
    if size[0] % height == 0 and size[1] % width == 0:
        # The same numbers as adaptive pooling; its backward pass on a GPU is not deterministic.
        return F.avg_pool2d(map_BCHW, (size[0] // height, size[1] // width))
    if size[0] >= height and size[1] >= width:
        return F.adaptive_avg_pool2d(map_BCHW, (height, width))
    return F.interpolate(map_BCHW, size=(height, width), mode="bilinear", align_corners=False)


def mean_of_map(map_BCHW: Tensor) -> Tensor:
    """Mean over positions: [B, C, H, W] -> [B, C]."""
    return map_BCHW.mean(dim=(2, 3))


def map_to_tokens(map_BCHW: Tensor, *, class_token: bool) -> Tensor:
    """Positions row by row as tokens, [B, H·W (+ 1), C]; the class token, if there is to be one, is their mean."""
    tokens_BLD = map_BCHW.flatten(2).transpose(1, 2)
    if not class_token:
        return tokens_BLD
    return torch.cat([tokens_BLD.mean(dim=1, keepdim=True), tokens_BLD], dim=1)


def tokens_to_map(tokens_BLD: Tensor, grid: Grid) -> Tensor:
    """Tokens of a grid as a map, [B, D, height, width]; a class token is dropped."""
    cells_BLD = tokens_BLD[:, 1:] if grid.class_token else tokens_BLD
    size, _, features = cells_BLD.shape
    return cells_BLD.transpose(1, 2).reshape(size, features, grid.height, grid.width)


def regrid(tokens_BLD: Tensor, source: Grid, target: Grid) -> Tensor:
    """Tokens of one grid to another, [B, L', D]; the class token is kept, dropped, or made as the mean."""
    cells = resized(tokens_to_map(tokens_BLD, source), target.height, target.width)
    out = map_to_tokens(cells, class_token=target.class_token and not source.class_token)
    keep = source.class_token and target.class_token
    return torch.cat([tokens_BLD[:, :1], out], dim=1) if keep else out


def resized_length(tokens_BLD: Tensor, length: int) -> Tensor:
    """Linear interpolation along the tokens, [B, length, D]."""
    along_BDL = tokens_BLD.transpose(1, 2)
    return F.interpolate(along_BDL, size=length, mode="linear", align_corners=False).transpose(1, 2)


def summary(tokens_BLD: Tensor, *, class_token: bool) -> Tensor:
    """The class token, or the mean over tokens, [B, D]."""
    return tokens_BLD[:, 0] if class_token else tokens_BLD.mean(dim=1)
