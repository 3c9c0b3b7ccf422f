"""convert: a GPT-2 or a plain run as a run of ours, with KAN layers where wanted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from nanogpkant.base.answer import Answer
from nanogpkant.base.files import check_is_new
from nanogpkant.base.lock import only_writer


@dataclass(frozen=True)
class Converted(Answer):
    """A run that ``convert`` wrote."""

    on_stdout: ClassVar[bool] = False
    run: str
    step: int
    """optimizer steps of the source"""
    parameters: int
    largest_change_of_logits: float
    """largest absolute difference from the source's logits, on random tokens"""

    def words(self) -> str:
        change = f"its logits differ by {self.largest_change_of_logits:.1g} at most"
        return f"{self.run}: {self.parameters / 1e6:.2f}M parameters; {change}"


def convert(
    source: str,
    *,
    out: str,
    from_: Literal["auto", "nanogpt", "nanogpkant-original"] = "auto",
    vocabulary: str | None = None,
    **settings: Any,
) -> Converted:
    """Turn a GPT-2, a plain run or a ckpt.pt into a run: as it is, or with KAN layers.

    KAN layers compute the same function as the projections that they replace.

    Args:
        source: a run's name or folder, pretrained:NAME, the folder of a GPT-2 saved by
            transformers, gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a ckpt.pt of nanoGPT or of the
            original nanoGPKANT.
        out: run folder to write; it must not exist, or be empty.
        from_: project that wrote the ckpt.pt; auto tells by its weights.
        vocabulary: meta.pkl of a ckpt.pt, or the text that it was trained on; a meta.pkl beside it
            unless given.
        **settings: dotted settings of the new run, laid over the source's, such as
            ``{"model.kan.sites": ["mlp_in", "mlp_out"]}``.

    Raises:
        UserError: no such source, a damaged one, or shapes or vocabularies that do not fit.
        UsageError: ``out`` is not empty, or settings that would change the function.

    Examples:
        >>> import nanogpkant as ng
        >>> settings = {"model.dropout": 0.1}  # for fine-tuning
        >>> ng.convert("pretrained:shakespeare-mini-kan", out="runs/start", **settings).step
        4000
    """
    with only_writer(Path(out)):
        check_is_new(Path(out))  # before anything is downloaded
        from nanogpkant.config import with_settings
        from nanogpkant.conversion import convert, open_source, starting_config

        opened = open_source(source, from_, vocabulary)
        config = with_settings(starting_config(opened), settings)
        return Converted(**convert(opened, config, Path(out)))
