__version__ = "0.1.0"

import warnings

# Libraries that import tqdm.auto (accelerate, huggingface_hub, papermill) make it warn in every kernel without ipywidgets.
# No bar here is a widget, so nothing is missing.
warnings.filterwarnings("ignore", "IProgress not found")
