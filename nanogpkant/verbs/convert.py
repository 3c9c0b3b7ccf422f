"""convert: a GPT-2 or a plain run as a run of ours, with KAN layers where wanted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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


def convert(source: str, *, out: str, **settings: Any) -> Converted:
    """Turn a GPT-2 or a plain run into a run: as it is, or with KAN layers of the same function.

    Args:
        source: a run's name or folder, pretrained:NAME, the folder of a GPT-2 saved by
            transformers, or gpt2, gpt2-medium, gpt2-large, gpt2-xl.
        out: run folder to write; it must not exist, or be empty.
        **settings: dotted settings of the new run, laid over the source's, such as
            ``{"model.kan.sites": ["mlp_in", "mlp_out"]}``.

    Raises:
        UserError: no such source, a damaged one, or shapes or vocabularies that do not fit.
        UsageError: ``out`` is not empty, or settings that would change the function.

    Example:
        >>> import nanogpkant as ng
        >>> shorter = {"model.block_size": 32}
        >>> ng.convert("pretrained:shakespeare-mini-kan", out="runs/short", **shorter).step
        4000
    """
    with only_writer(Path(out)):
        check_is_new(Path(out))  # before anything is downloaded
        from nanogpkant.config import with_settings
        from nanogpkant.conversion import convert, open_source, starting_config

        opened = open_source(source)
        config = with_settings(starting_config(opened), settings)
        return Converted(**convert(opened, config, Path(out)))
