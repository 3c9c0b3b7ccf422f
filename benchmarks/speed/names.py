"""Row names that several files use."""

OURS = "nanogpkant"
BARE_PRODUCTS = "three products alone"
EQUAL_FLOPS = "nn.Linear of equal FLOPs"
SAME_SHAPE = "nn.Linear, same in and out"
ORIGINAL_LAYER = "Cox-de Boor, eager"

KAN, PLAIN, BOOSTED, MATCHED = (
    "shakespeare_char_micro_kan",
    "shakespeare_char_micro",
    "shakespeare_char_micro_boosted_parameters",
    "shakespeare_char_matched",
)
ORIGINAL_MODEL = "the original's KAN, fp32"


def is_rival(layer: str) -> bool:
    """Whether a row of the layer table is a layer of another library."""
    bare = (BARE_PRODUCTS, EQUAL_FLOPS, SAME_SHAPE)
    return not layer.startswith(OURS) and layer not in bare
