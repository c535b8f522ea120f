"""Prune a classifier without letting some groups of people pay for it.

What a user calls is here, under one name each; it is imported when it is first asked for."""

import warnings
from importlib import import_module

__version__ = "0.1.0"

# Libraries that import tqdm.auto (accelerate, huggingface_hub, papermill) make it warn in every
# kernel without ipywidgets. No bar here is a widget, so nothing is missing.
warnings.filterwarnings("ignore", "IProgress not found")

# name → the chapter and module that defines it
_DEFINED_IN = {
    # prune a network of one's own
    "prune_fair": "method.pruning",
    "prune": "method.pruning",
    "schedule": "method.schedule",
    "group_importance": "method.importance",
    "ByGroup": "method.importance",
    "target_share": "method.selectors",
    "select_top": "method.selectors",
    "select_fair": "method.selection",
    "prunable": "method.masks",
    "apply_masks": "method.masks",
    "get_masks": "method.masks",
    "from_zeros": "method.masks",
    "sparsity": "method.masks",
    "plain_state": "method.masks",
    "to_torch_prune": "method.masks",
    "from_torch_prune": "method.masks",
    "magnitude_score": "methods.scores",
    "methods_table": "methods.registry",
    # judge
    "interval_table": "judge.compare",
    "disparities": "judge.compare",
    "compare": "judge.compare",
    "read_predictions": "judge.predictions",
    "predictions_of": "judge.predictions",
    "audit": "judge.audit",
    "gate": "judge.gate",
    "verdicts": "judge.verdicts",
    "save_audit": "report.audit_page",
    # whole runs
    "Settings": "experiment.settings",
    "run": "experiment.run",
    "load_run": "report.runs",
    # faces
    "synthetic_table": "data.appearance",
    "render_faces": "data.synthetic",
    "read_dataset": "data.catalog",
    # networks and their weights
    "build_model": "networks.models",
    "save_weights": "networks.weights",
    "load_weights": "networks.weights",
}
__all__ = list(_DEFINED_IN)


def __getattr__(name: str):
    "A public name, imported from where it is defined (PEP 562)."
    if name not in _DEFINED_IN:
        raise AttributeError(f"module 'fairgrape' has no attribute {name!r}")
    return getattr(import_module(f"fairgrape.{_DEFINED_IN[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
