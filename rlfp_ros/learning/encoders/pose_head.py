"""The pose head that all encoders share: the object's position and its covariance from the features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.contract import CameraContract

POSITION_SCALE = 0.1  # m, unit of the head's outputs
SMALLEST_SIGMA = 0.001  # m, floor of the predicted standard deviation
INSIDE_90 = 6.251  # chi-square with 3 degrees of freedom: squared distance at the edge of a nominal 90 % region


def pose_layers(features: int, hidden: int) -> nn.Sequential:
    """Make the head's layers, from `features` values to the nine inputs of `position_and_factor`."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 9))


def workspace_centre(camera: CameraContract) -> Tensor:
    """The point [3] m in the optical frame from which pose heads start."""
    centre = torch.tensor([0.45, 0.0, 0.05, 1.0], dtype=torch.float64)  # base frame
    return (torch.linalg.inv(torch.tensor(camera.T_base_camera.matrix())) @ centre)[:3].float()


def position_and_factor(head: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Convert a head's outputs [B, 9] to position [B, 3] m and the Cholesky factor [B, 3, 3] m of its covariance."""
    position = origin + POSITION_SCALE * head[:, :3]
    diagonal = SMALLEST_SIGMA + POSITION_SCALE * functional.softplus(head[:, 3:6])
    zero = torch.zeros_like(diagonal[:, 0])
    lower = POSITION_SCALE * 0.1 * head[:, 6:9]
    rows = [
        torch.stack([diagonal[:, 0], zero, zero], dim=-1),
        torch.stack([lower[:, 0], diagonal[:, 1], zero], dim=-1),
        torch.stack([lower[:, 1], lower[:, 2], diagonal[:, 2]], dim=-1),
    ]
    return position, torch.stack(rows, dim=1)
