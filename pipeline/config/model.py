"""What a recipe chooses of the model, beside the language expert's sizes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelOptions:
    """Fields of `MarsConfig` that a recipe sets.

    Attributes:
        shared_output_projection: one frozen attention output projection for both experts, instead of one each.
            The paper's figure does not show it.
        embedding_noise_std: deviation of the normal noise, always the same, that a new model's visual embedding has
            around the mean row. Equal rows tell no code from another until training has parted them.
        picture_position_std: root mean square of what tells the visual embedding where in its picture an id stands (see
            `pipeline.model.picture_positions`); 0 for nothing, as in the paper's figure. It should be about as large as
            the spread of the rows: then neither hides the other.
    """

    shared_output_projection: bool = False
    embedding_noise_std: float = 0.0
    picture_position_std: float = 0.0

    def problems(self) -> list[str]:
        """What makes them impossible; empty where nothing does."""
        return [
            f"{name} is {std}, it must be 0 or above"
            for name in ("embedding_noise_std", "picture_position_std")
            if (std := getattr(self, name)) < 0
        ]


DEFAULT_OPTIONS = ModelOptions()
