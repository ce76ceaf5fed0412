"""A small optimizer whose result is an average of its training weights, like schedule-free optimizers."""

import torch


class Averaging(torch.optim.SGD):
    """Gradient descent whose result is the mean of the weights after each step. It can't step while that is shown."""

    def __init__(self, params, lr: float) -> None:
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group["training"], group["steps"] = False, 0

    def train(self) -> None:
        self._show(True)

    def eval(self) -> None:
        self._show(False)

    @torch.no_grad()
    def _show(self, training: bool) -> None:
        for group in self.param_groups:
            for weight in group["params"] if group["training"] != training else ():
                mean = self.state[weight].get("mean")
                if mean is not None:
                    kept = weight.clone()
                    weight.copy_(mean)
                    mean.copy_(kept)
            group["training"] = training

    @torch.no_grad()
    def step(self, closure=None) -> None:
        assert all(group["training"] for group in self.param_groups), "train() was not called"
        super().step(closure)
        for group in self.param_groups:
            group["steps"] += 1
            for weight in group["params"]:
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean += (weight - mean) / group["steps"]
