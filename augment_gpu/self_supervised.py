"""Recipes of self-supervised learning, which compares two pictures of every sample."""

from typing import Any, Literal

from augment_gpu.recipe import Recipe

_STRENGTHS = ("brightness", "contrast", "saturation", "hue")
# Of each view: the probabilities of blur and solarize, and the strengths of brightness, contrast, saturation and hue.
_VIEWS = {
    "byol": ((1.0, 0.0, (0.4, 0.4, 0.2, 0.1)), (0.1, 0.2, (0.4, 0.4, 0.2, 0.1))),
    "simclr": ((0.5, 0.0, (0.8, 0.8, 0.8, 0.2)), (0.5, 0.0, (0.8, 0.8, 0.8, 0.2))),
}


def two_views(method: Literal["byol", "simclr"] = "byol", **fields: Any) -> tuple[Recipe, Recipe]:
    """The recipes of a sample's two views: of BYOL (Grill et al., NeurIPS 2020, appendix B) or SimCLR (Chen et al.,
    ICML 2020, at strength 1). A stage of each, with the same seed, index and epoch, gives each view draws of its own,
    since the recipes differ in `view`. Both crop bicubically. fields: of both recipes, such as size.

    Raises ValueError for an unknown method, and for the field `view`."""
    if method not in _VIEWS:
        raise ValueError(f"method is {method!r}; known are {', '.join(_VIEWS)}")
    if "view" in fields:
        raise ValueError(f"view is {fields['view']}; the two recipes differ in it, and set it themselves")
    first, second = (
        Recipe(
            **{
                "ops": (
                    ("color_jitter", {**dict(zip(_STRENGTHS, strengths, strict=True)), "p": 0.8}),
                    ("grayscale", {"p": 0.2}),
                    ("gaussian_blur", {"p": blur}),
                    ("solarize", {"p": solarize}),
                ),
                "interpolation": "bicubic",
                **fields,
                "view": view,
            }
        )
        for view, (blur, solarize, strengths) in enumerate(_VIEWS[method])
    )
    return first, second
