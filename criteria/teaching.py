"""Which terms of the objective teach: each one's share in the gradient at the embeddings.

    share_f = g_f / sum_k g_k,   g_f = || d(weight_f L_f) / d(embeddings) ||

A term on the trunk (dc, imrot) is differentiated there. One step in every few is measured, which
costs a backward pass through the criteria alone. What is measured stays on the device until `read`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from criteria.features import Feature, Step

NEGLIGIBLE = 1e-6   # of the largest term's gradient


class Teaching:
    """Measures the summands of `objective` over an epoch and names each idle one once, and
    again after a resume."""

    def __init__(self, objective: Sequence[Feature] | nn.ModuleList):
        self.features = list(objective)
        self.named: set[str] = set()
        self.norms: Tensor | None = None

    def measure(self, losses: Mapping[str, Tensor], step: Step) -> None:
        """Adds the norms of a step, whose losses can still be differentiated afterwards."""
        norms = torch.stack([gradient_norm(feature.weight * losses[feature.name], step)
                             for feature in self.features])
        self.norms = norms if self.norms is None else self.norms + norms

    def read(self, mean_losses: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
        """({feature: share of the epoch's gradient}, a line about each term found idle for the
        first time), and starts a new epoch. mean_losses: of the epoch, by feature.

        A term is idle whose loss was 0 in every step or whose gradient was negligible beside the
        largest one. A term that its weight turns off is not named.
        """
        norms, self.norms = self.norms.tolist(), None
        total, largest = sum(norms), max(norms)
        shares, lines = {}, []
        for feature, norm in zip(self.features, norms, strict=True):
            shares[feature.name] = norm / total if total else 0.0
            if feature.name in self.named or feature.weight == 0:
                continue
            if mean_losses[feature.name] == 0:
                reason = "its loss was 0 in every step"
            elif norm == 0:
                reason = "its gradient was 0 in every step that was measured"
            elif norm < NEGLIGIBLE * largest:
                reason = (f"its gradient was {norm / largest:.1g} of the largest term's in the "
                          "steps that were measured")
            else:
                continue
            self.named.add(feature.name)
            lines.append(f"{feature.name} seems to teach nothing: {reason}; what helps: "
                         f"{feature.remedy}")
        return shares, lines


def gradient_norm(loss: Tensor, step: Step) -> Tensor:
    """() float32: the norm of the gradient of `loss` at the embeddings, or at the trunks where it
    does not depend on those."""
    views = [(step.embeddings, step.trunk), *step.further_views.values()]
    for inputs in ([rows for embeddings, _ in views for rows in embeddings.values()],
                   [trunk for _, trunk in views]):
        gradients = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
        gradients = [gradient for gradient in gradients if gradient is not None]
        if gradients:
            return torch.stack([gradient.norm() for gradient in gradients]).norm()
    return loss.new_zeros(())
