"""Gated recurrent layers with a gradient of their own, for training on a processor.

What PyTorch records of such a layer there are some fifteen operations for each token of a row, and it adds to the gradient
of the weights as often. Here the way back works out all that does not depend on later tokens for all tokens at once,
goes back through the states with one small product for each token, and makes the weights' gradient as one product.

Shapes: B rows, L length, D units, G = 3D gates: reset, update and new, in the order of `nn.GRU`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def gru_states(gates_BLG: Tensor, state_BD: Tensor, weights_GD: Tensor, bias_G: Tensor) -> Tensor:
    """The states of a gated recurrent layer after each token, once differentiable.

    r_t = σ(x_t^r + U_r h_{t−1} + b_r), z_t = σ(x_t^z + U_z h_{t−1} + b_z),
    n_t = tanh(x_t^n + r_t (U_n h_{t−1} + b_n)), h_t = (1 − z_t) n_t + z_t h_{t−1}: Cho et al. 2014, as `nn.GRU` has it.

    Args:
        gates_BLG: x, what the tokens themselves say to the gates: W x_t + b of the layer's input; L is 1 at least.
        state_BD: h_0.
        weights_GD: U.
        bias_G: b.

    Returns:
        states_BLD, h_1 to h_L.
    """
    found: Tensor = _States.apply(gates_BLG, state_BD, weights_GD, bias_G)  # type: ignore[no-untyped-call]
    return found


def pays(tokens: Tensor, parameter: Tensor) -> bool:
    """Whether `gru_states` may stand for `nn.GRU`, and is faster: gradients are wanted, of float32 or more, on a processor."""
    return (
        torch.is_grad_enabled()
        and tokens.device.type == "cpu"
        and tokens.shape[1] > 0
        and parameter.dtype.itemsize >= torch.float32.itemsize
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class _States(torch.autograd.Function):
    """Lengths come first inside, so that what belongs to a token is one piece of memory."""

    @staticmethod
    def forward(
        ctx: Any, gates_BLG: Tensor, state_BD: Tensor, weights_GD: Tensor, bias_G: Tensor
    ) -> Tensor:
        size, length, _ = gates_BLG.shape
        units = weights_GD.shape[1]
        gates_LBG = gates_BLG.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        states_LBD = gates_LBG.new_empty(length + 1, size, units)
        states_LBD[0] = state_BD
        said_LBG = torch.empty_like(gates_LBG)  # by the state before; its last third is kept
        back_DG = weights_GD.t()
        for t in range(length):
            torch.addmm(bias_G, states_LBD[t], back_DG, out=said_LBG[t])
            both_BG, said_BG = gates_LBG[t], said_LBG[t]
            gate_BG = both_BG[:, : 2 * units].add_(said_BG[:, : 2 * units]).sigmoid_()
            new_BD = both_BG[:, 2 * units :]
            new_BD.addcmul_(gate_BG[:, :units], said_BG[:, 2 * units :]).tanh_()
            torch.lerp(new_BD, states_LBD[t], gate_BG[:, units:], out=states_LBD[t + 1])
        ctx.save_for_backward(states_LBD, gates_LBG, said_LBG[..., 2 * units :], weights_GD)
        return states_LBD[1:].transpose(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        states_LBD, gates_LBG, said_LBD, weights_GD = ctx.saved_tensors
        length, size, units = said_LBD.shape
        reset_LBD, update_LBD, new_LBD = gates_LBG.view(length, size, 3, units).unbind(2)
        # Of each state's gradient, what reaches the three gates: first as factors, then times that gradient.
        through_LBD = (1 - update_LBD) * (1 - new_LBD.square())
        back_LB3D = torch.empty_like(gates_LBG).view(length, size, 3, units)
        torch.mul(through_LBD * said_LBD, reset_LBD * (1 - reset_LBD), out=back_LB3D[:, :, 0])
        torch.mul(states_LBD[:-1] - new_LBD, update_LBD * (1 - update_LBD), out=back_LB3D[:, :, 1])
        torch.mul(through_LBD, reset_LBD, out=back_LB3D[:, :, 2])
        back_LBG = back_LB3D.view(length, size, 3 * units)
        of_LBD = gradient_BLD.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        first_BD = torch.zeros_like(of_LBD[0])
        for t in reversed(range(length)):
            back_LB3D[t].mul_(of_LBD[t].unsqueeze(1))
            before_BD = of_LBD[t - 1] if t else first_BD
            before_BD.addcmul_(of_LBD[t], update_LBD[t]).addmm_(back_LBG[t], weights_GD)
        flat_NG = back_LBG.view(length * size, 3 * units)
        weights_gradient_GD = flat_NG.t() @ states_LBD[:-1].view(length * size, units)
        bias_gradient_G = flat_NG.sum(0)
        # The tokens' part of the new state is not held back by the reset gate; all else is the same.
        torch.mul(through_LBD, of_LBD, out=back_LB3D[:, :, 2])
        return back_LBG.transpose(0, 1), first_BD, weights_gradient_GD, bias_gradient_G


def token_gates(
    ids_BL: Tensor, inputs_BLD: Tensor, table_VD: Tensor, weights_GD: Tensor, bias_G: Tensor
) -> Tensor:
    """What tokens say to the gates of the first layer [B, L, G]: worked out once for each token of a small vocabulary.

    Args:
        ids_BL: the tokens.
        inputs_BLD: their embeddings.
        table_VD: all embeddings.
        weights_GD: of the layer's input.
        bias_G: of the same.
    """
    if len(table_VD) > ids_BL.numel():
        return F.linear(inputs_BLD, weights_GD, bias_G)
    return F.embedding(ids_BL, F.linear(table_VD, weights_GD, bias_G))
