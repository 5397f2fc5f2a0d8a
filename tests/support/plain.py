"""Networks as a user writes them: plain ``torch.nn`` modules with four maps."""

from torch import Tensor, nn


class FourStages(nn.Module):
    """Calls ``stages`` one after the other and returns the map of each; subclasses set them."""

    stages: nn.ModuleList

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)
