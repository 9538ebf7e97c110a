"""BatchNorm in training mode on several processes: statistics of the whole batch.

    mean = sum x / n,   var = sum (x - mean)^2 / n,   y = gamma (x - mean) / sqrt(var + eps) + beta

with sums over the images of all processes. With x^ = (x - mean) / sqrt(var + eps) and g = dL/dx^,
dL/dx = (g - mean(g) - x^ mean(g x^)) / sqrt(var + eps). torch's SyncBatchNorm does the same on GPUs
alone. timm's BatchNormAct2d goes on with dropout and an activation, its submodules.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utilities.distributed import Alone
from utilities.errors import refuse


def keeps_statistics(module: nn.Module) -> bool:
    """Whether `module` is a BatchNorm, or another layer that normalises by statistics of the batch
    in training mode and by running ones in evaluation mode, such as timm's EvoNorm2dB0."""
    return isinstance(module, _BatchNorm) or getattr(module, "running_var", None) is not None


def share_statistics(network: nn.Module, processes: Alone) -> None:
    """Lets every BatchNorm of `network` that is in training mode normalise by the images of all
    processes. Modules stay the same objects, since convolutions that are folded refer to them.
    UserError for other layers that normalise by the batch."""
    if processes.size == 1:
        return
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = shared(type(module), processes)
        elif keeps_statistics(module) and module.training:
            refuse("--arch", f"{type(module).__name__} normalises by the whole batch, which "
                   "several processes do not share",
                   "another backbone, _frozen behind its name, or one process")


def shared(kind: type[_BatchNorm], processes: Alone) -> type[_BatchNorm]:
    """The class that differs from `kind` in training mode alone."""
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return kind.forward(self, x)
        y, mean, var, count = _Normalise.apply(x, self.eps, processes)
        if self.track_running_stats:
            self.follow(mean, var, count)
        if self.affine:
            _, shape = axes(x)
            y = y * self.weight.view(shape) + self.bias.view(shape)
        y = y.to(x.dtype)
        for further in self.children():
            y = further(y)
        return y

    @torch.no_grad()
    def follow(self, mean: Tensor, var: Tensor, count: int) -> None:
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var * (count / max(count - 1, 1)), share)

    return type(f"Shared{kind.__name__}", (kind,), {
        "forward": torch.compiler.disable(forward), "follow": follow})


def axes(x: Tensor) -> tuple[list[int], list[int]]:
    """Of x (B, C, ...): the dimensions that statistics are taken over, and the shape in which
    values of channels (C,) meet x."""
    return [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]


class _Normalise(torch.autograd.Function):
    """x (b, C, ...) of this process -> (x - mean) / sqrt(var + eps), mean (C,), var (C,), n; at
    least in float32."""

    @staticmethod
    def forward(ctx, x: Tensor, eps: float, processes: Alone):
        dims, shape = axes(x)
        count = x.numel() // x.shape[1] * processes.size
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = processes.sum(wide.sum(dims)) / count
        y = wide - mean.view(shape)
        var = processes.sum(y.square().sum(dims)) / count
        scale = (var + eps).rsqrt().view(shape)
        y *= scale
        ctx.save_for_backward(y, scale)
        ctx.processes, ctx.count = processes, count
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var, count

    @staticmethod
    def backward(ctx, gradient: Tensor, *_):
        y, scale = ctx.saved_tensors
        dims, _ = axes(y)
        sums = torch.stack([gradient.sum(dims), (gradient * y).sum(dims)])
        of_all, along = ctx.processes.sum(sums).view(2, *scale.shape) / ctx.count
        return (gradient - of_all - y * along) * scale, None, None
