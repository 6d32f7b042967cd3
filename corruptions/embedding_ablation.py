"""Mean and zero ablation: the image's or the question's embeddings carry nothing of this sample. The baselines of semantic corruptions."""

from corruptions.base import CleanInputs, register

MEAN = "the mean over the data set's clean runs (1,000 of a larger one)"


@register("zero_ablation_text", "text", "gets 0 for the question's embeddings", embeddings="zero")
@register("zero_ablation", "image", "gets 0 for the image's embeddings", embeddings="zero")
@register("mean_ablation_text", "text", f"gets {MEAN} for the question's embeddings", embeddings="mean")
@register("mean_ablation", "image", f"gets {MEAN} for the image's embeddings", embeddings="mean")
class EmbeddingAblation(CleanInputs):
    """Image and question stay; the corrupt run's embeddings become their mean over the data set's clean runs, or 0.

    The mean of image states is taken at each position; that of a question's tokens over all positions, which do not correspond.
    """
