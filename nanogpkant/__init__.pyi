from .conversion.functions import load_functions, lora, save_functions, train_only
from .conversion.others import from_efficient_kan, from_fastkan, from_inkan, from_kans, from_pykan
from .conversion.pretrained_model import load_kanified
from .interpretation.estimators import KANClassifier, KANRegressor
from .interpretation.frozen import freeze_functions
from .kan import KAN, RBF, BSpline, Chebyshev, Fourier, KANLinear, Line, Rational, hat, kan_linear
from .model.gpt import GPT
from .verbs.compare import compare, experiment, search
from .verbs.convert import convert
from .verbs.interpret import interpret, prune
from .verbs.kanify import kanify
from .verbs.load import LoadedRun, load
from .verbs.measure import bench, match, plan
from .verbs.play import edit, play
from .verbs.prepare import prepare
from .verbs.runs import info, presets, runs
from .verbs.scale import scale
from .verbs.share import export, pull, push
from .verbs.train import track, train
from .verbs.use import evaluate, sample

__all__ = [
    "GPT",
    "KAN",
    "RBF",
    "BSpline",
    "Chebyshev",
    "Fourier",
    "KANClassifier",
    "KANLinear",
    "KANRegressor",
    "Line",
    "LoadedRun",
    "Rational",
    "bench",
    "compare",
    "convert",
    "edit",
    "evaluate",
    "experiment",
    "export",
    "freeze_functions",
    "from_efficient_kan",
    "from_fastkan",
    "from_inkan",
    "from_kans",
    "from_pykan",
    "hat",
    "info",
    "interpret",
    "kan_linear",
    "kanify",
    "load",
    "load_functions",
    "load_kanified",
    "lora",
    "match",
    "plan",
    "play",
    "prepare",
    "presets",
    "prune",
    "pull",
    "push",
    "runs",
    "sample",
    "save_functions",
    "scale",
    "search",
    "track",
    "train",
    "train_only",
]
__version__: str
