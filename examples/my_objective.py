"""An objective of your own: the encoder's features must suffice to predict a thumbnail of the image.

./rlfp --plugin examples/my_objective.py train reach --encoder cnn --representation supervised+thumbnail
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from rlfp_ros.learning.encoders.encoder import Encoder
from rlfp_ros.learning.objectives.objective import OBJECTIVES, Batch, Objective, Sizes, pixels_of, two_layers

SIDE = 8  # px of the thumbnail


@OBJECTIVES.register("thumbnail")
class Thumbnail(Objective):
    """Mean square error of a thumbnail of SIDE x SIDE pixels, predicted from the features."""

    def __init__(self, encoder: Encoder, sizes: Sizes) -> None:
        super().__init__(encoder, sizes)
        self.head = two_layers(encoder.code_size, 3 * SIDE * SIDE)  # trained with the encoder, then discarded

    def loss(self, encoder: Encoder, batch: Batch) -> Tensor:
        wanted = pixels_of(batch.images, SIDE, SIDE).flatten(1)
        return functional.mse_loss(self.head(batch.code), wanted)
