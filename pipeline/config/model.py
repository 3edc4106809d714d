"""Model options of a recipe, in addition to the language expert's sizes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelOptions:
    """Fields of `MarsConfig` that a recipe sets.

    Attributes:
        shared_output_projection: one frozen attention output projection for both experts, instead of one each.
            The paper's figure does not show it.
        embedding_noise_std: standard deviation of the normal noise, from a fixed seed, around the mean row in a new
            model's visual embedding. Equal rows could not be told apart until training has separated them.
        picture_position_std: root mean square of the encoding of an id's position in its picture, which is added to the
            visual embedding (see `pipeline.model.picture_positions`); 0 for none, as in the paper's figure. It should
            be about as large as the spread of the rows, so that neither dominates.
        visual_query_key_norm: the visual expert normalises its queries and keys head by head, with trained weights that
            start at 1, as a Qwen3's experts do anyway. It bounds the attention's logits, which can grow in a long
            training (Dehghani 2023). The paper does not speak of it.
    """

    shared_output_projection: bool = False
    embedding_noise_std: float = 0.0
    picture_position_std: float = 0.0
    visual_query_key_norm: bool = False

    def problems(self) -> list[str]:
        """Returns the reasons why the options are invalid; empty if they are valid."""
        return [
            f"{name} is {std}, but must be 0 or above"
            for name in ("embedding_noise_std", "picture_position_std")
            if (std := getattr(self, name)) < 0
        ]


DEFAULT_OPTIONS = ModelOptions()
